//! The model router: the grid of conversions, and whole calls on the fake platform.

mod calls;
mod choice;
mod fixtures;
mod grid;
mod hostile;
mod resume;
