//! The limiter for plain threads: the same answers and the same buckets as the asynchronous one.

mod laws;
mod memory;
