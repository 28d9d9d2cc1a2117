//! The guarantees of a pool, each as a test. The driver is scripted, since the unit is the pool.

mod board;
mod circuit;
mod double;
mod leases;
mod model;
mod rules;
mod sharing;
mod size;
mod waiting;
