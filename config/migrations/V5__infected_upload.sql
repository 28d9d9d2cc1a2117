-- Files in which the virus scanner has found something. They were not stored.
create table headroom.infected_upload (
    id              text        primary key check (id ~ '^[0-9a-f]{32}$'),
    name            text        not null,
    kind            text        not null,
    bytes           bigint      not null check (bytes >= 0),
    sha256          bytea       not null check (octet_length(sha256) = 32),
    -- What the scanner calls it.
    signature       text        not null,
    caller          text        not null,
    -- Whether the file is in the upload folder, in quarantine/<id>.
    kept            boolean     not null,
    found_at        timestamptz not null default clock_timestamp()
);
create index infected_upload_newest on headroom.infected_upload (found_at desc, id desc);
create index infected_upload_kept on headroom.infected_upload (bytes) where kept;
