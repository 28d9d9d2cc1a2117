//! The scenarios that measure a server, one per file. Each starts its own servers and gives its figures.

mod cold_start;
mod infer;
mod load;
mod pressure;
mod resident;

pub(crate) use cold_start::cold_start;
pub(crate) use infer::infer;
pub(crate) use load::load;
pub(crate) use pressure::pressure;
pub(crate) use resident::resident;

#[expect(
    clippy::disallowed_methods,
    reason = "the measuring threads run no async tasks"
)]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}
