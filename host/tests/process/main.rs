//! The real program, as a process: started, killed under load, stopped while clients misbehave, short of descriptors, and
//! driven by the tutorial.

mod child;
mod crash;
mod crowd;
mod log;
mod starting;
mod stopping;
mod tutorial;
