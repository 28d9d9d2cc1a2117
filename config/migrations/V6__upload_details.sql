-- What the check of the content has learned of an upload, such as the size of an image. Null for uploads before this column.
alter table headroom.upload add details jsonb;
