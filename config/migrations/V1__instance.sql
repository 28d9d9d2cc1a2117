-- What the server keeps of itself, for whatever needs a name and a value and nothing more.
create table headroom.instance (
    key        text        primary key,
    value      jsonb       not null,
    changed_at timestamptz not null default now()
);
