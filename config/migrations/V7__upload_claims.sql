-- Servers that share a database and a bucket agree by these who may change the object of a content.
alter table headroom.upload_content
    -- The transfers that may be sending it to the bucket,
    add column sending text[] not null default '{}',
    -- and until when, unless one of them says so again.
    add column sending_until timestamptz,
    -- Until when a server may be removing it.
    add column removing_until timestamptz;

-- Each of them has an upload folder of its own: these say in which one the file is.
alter table headroom.partial_upload add column folder text;
update headroom.partial_upload set folder =
    (select value #>> '{}' from headroom.instance where key = 'upload_folder');
alter table headroom.infected_upload add column folder text;
update headroom.infected_upload set folder =
    (select value #>> '{}' from headroom.instance where key = 'upload_folder');
