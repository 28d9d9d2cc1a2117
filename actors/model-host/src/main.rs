//! Model host.
fn main() {}
