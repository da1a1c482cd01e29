"""How a question becomes memories: filters, the query, what Postgres says of each hit."""
