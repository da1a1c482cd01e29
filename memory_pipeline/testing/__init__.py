"""What breaks and measures the product. Only the commands `chaos` and `bench` load it."""
