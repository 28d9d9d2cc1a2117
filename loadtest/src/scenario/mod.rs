//! What is measured, one file per scenario. Each starts its own servers and gives its figures.

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
    reason = "a thread of its own waits for its turn, or looks again"
)]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}
