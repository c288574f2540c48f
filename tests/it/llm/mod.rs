//! The model router: the grid of conversions, and whole calls on the fake platform.

mod ask;
mod cache;
mod calls;
mod choice;
mod content;
mod contexts;
mod fixtures;
mod grid;
mod hostile;
mod resume;
mod team;
