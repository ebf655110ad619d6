//! The real program, as a process: started, killed under load, stopped while clients misbehave, short of descriptors, and
//! driven by the tutorial; and with the pages of a browser.

mod browser;
mod child;
mod crash;
mod crowd;
mod egress;
mod log;
mod starting;
mod stopping;
mod tutorial;
mod web;
mod words;
