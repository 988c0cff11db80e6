//! IR → timely and differential operators: the views' computations and their state.

mod accumulator;
mod arrange;
mod delta;
mod eval;
mod exact;
mod failure;
mod groups;
mod layout;
mod output;
mod render;
mod results;
