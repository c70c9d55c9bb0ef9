//! `find` from outside: case files, random spellings of attention, and real models.

#[path = "find/cases.rs"]
mod cases;
#[path = "find/limits.rs"]
mod limits;
#[path = "find/models.rs"]
mod models;
#[path = "find/spellings.rs"]
mod spellings;
