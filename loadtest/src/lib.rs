//! Load scenarios and side-by-side measurements against a running Headroom.
