//! The real program, as a process: killed under load, stopped while clients misbehave, and driven by the tutorial.

mod crash;
mod stopping;
mod tutorial;
