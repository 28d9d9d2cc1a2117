//! The pool's promises, each as a test. What it connects to here is scripted: the unit is the pool.

mod circuit;
mod double;
mod leases;
mod rules;
mod size;
mod waiting;
