-- Files that arrive in parts. Their bytes are in the upload folder, in partial/<id>.
create table headroom.partial_upload (
    id              text        primary key check (id ~ '^[0-9a-f]{32}$'),
    -- The name and the media type that the client declares; a part of another file may have none.
    name            text,
    media_type      text,
    -- All that the client has said of it, as it said it.
    metadata        text        not null,
    -- The bytes of the whole file, null while the client has not said them.
    length          bigint      check (length >= 0),
    -- The bytes that it had after the last part.
    kept            bigint      not null default 0 check (kept >= 0),
    -- Bytes after these have not passed the check of their sum; they do not count.
    checked         bigint      check (checked >= 0),
    -- Whether it is a part of another file, or one that is made of parts.
    role            text        not null check (role in ('whole', 'part', 'final')),
    parts           text[]      not null,
    caller          text        not null,
    -- What it has become.
    upload_id       text        references headroom.upload on delete cascade,
    -- Why it does not go on.
    ended           text,
    created_at      timestamptz not null default clock_timestamp(),
    expires_at      timestamptz not null
);
create index partial_upload_expiry on headroom.partial_upload (expires_at);
create index partial_upload_caller on headroom.partial_upload (caller) where upload_id is null and ended is null;
create index partial_upload_of on headroom.partial_upload (upload_id) where upload_id is not null;
