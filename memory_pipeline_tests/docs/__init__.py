"""The documentation as code: generated pages, the check of every snippet, the site's hooks."""
