"""From a question to memories: the filter, the query, the confirmation in Postgres."""
