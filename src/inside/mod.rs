//! The project's own code that runs in a sandbox in place of a program, under the same fences and as the same user.

pub mod files;
