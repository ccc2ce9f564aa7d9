"""Earlier validations and comparisons, in a database: a local SQLite file, or a team's PostgreSQL server."""
