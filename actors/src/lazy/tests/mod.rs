//! The loader's promises, each as a test. What it loads here is scripted: the unit is the loader.

pub(super) mod double;
mod eviction;
mod failure;
mod figures;
mod leaving;
mod never_fits;
mod pressure;
mod registering;
mod single_flight;
mod stop;
