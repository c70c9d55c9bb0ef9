//! `find` from outside: case files, random spellings of attention, and real models.

mod bind;
mod cases;
mod factors;
mod fills;
mod guards;
mod kinds;
mod limits;
mod models;
mod names;
mod recast;
mod ring;
mod roles;
mod sizes;
mod spellings;
