-- The image of Postgres runs this once, as its administrator, when the volume is new.
-- Each of the two databases has an owner of its own without an administrator's rights, which only
-- CREATE EXTENSION needs.
\getenv pipeline_password PIPELINE_PASSWORD
\getenv dagster_password DAGSTER_PASSWORD

CREATE ROLE memory_pipeline LOGIN PASSWORD :'pipeline_password';
CREATE DATABASE memory_pipeline OWNER memory_pipeline;
REVOKE ALL ON DATABASE memory_pipeline FROM PUBLIC;

CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE DATABASE dagster OWNER dagster;
REVOKE ALL ON DATABASE dagster FROM PUBLIC;

\connect memory_pipeline
CREATE EXTENSION vector;
