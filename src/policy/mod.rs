//! What each level means. Pure: no I/O, no clock.

pub mod table;
