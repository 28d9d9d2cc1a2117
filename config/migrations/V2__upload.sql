-- The bytes of uploaded files. Uploads with the same bytes share them.
create table headroom.upload_content (
    blake3          bytea       primary key check (octet_length(blake3) = 32),
    sha256          bytea       not null check (octet_length(sha256) = 32),
    bytes           bigint      not null check (bytes >= 0),
    -- How many uploads have these bytes. Without any, the file is removed, and then this row.
    uploads         integer     not null check (uploads >= 0)
);
create index upload_content_sha256 on headroom.upload_content (sha256);
create index upload_content_unused on headroom.upload_content (blake3) where uploads = 0;

-- Uploaded files.
create table headroom.upload (
    id              text        primary key check (id ~ '^[0-9a-f]{32}$'),
    blake3          bytea       not null references headroom.upload_content,
    bytes           bigint      not null,
    name            text        not null,
    kind            text        not null,
    media_type      text        not null,
    -- Who uploaded it.
    caller          text        not null,
    -- Whether a scanner has found it clean; false if it was not scanned.
    scanned         boolean     not null,
    created_at      timestamptz not null default clock_timestamp(),
    expires_at      timestamptz
);
create index upload_newest on headroom.upload (created_at desc, id desc);
create index upload_caller on headroom.upload (caller) include (bytes);
create index upload_content_of on headroom.upload (blake3);
create index upload_expiry on headroom.upload (expires_at) where expires_at is not null;
