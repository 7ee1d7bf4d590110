//! Rows by themselves: events made by hand, no expressions.

use super::event::AheadEvent;
use super::layout::Measure;
use super::state::Kind;
use super::*;
use ondol_vocabulary::{DataType, SourcePosition, Window};
