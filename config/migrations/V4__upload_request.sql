-- Requests that have stored files and came with an Idempotency-Key: a repeat gets the same answer.
create table headroom.upload_request (
    caller          text        not null,
    key             text        not null,
    -- What tells the files of the request from others.
    fingerprint     bytea       not null check (octet_length(fingerprint) = 32),
    -- The ids of the uploads, in the order of the request. Some may have been removed since.
    uploads         text[]      not null,
    expires_at      timestamptz not null,
    primary key (caller, key)
);
create index upload_request_expiry on headroom.upload_request (expires_at);
