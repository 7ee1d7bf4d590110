//! Which arguments an aggregation takes, and the type of what it answers.

use ondol_vocabulary::{Aggregation, DataType};

/// Why a function does not take an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// The function needs an argument and has none.
    #[error("{}() needs an argument: write the expression to aggregate, such as {}(amount)", .0.name(), .0.name())]
    Missing(Aggregation),
    /// The function only takes numbers.
    #[error("{}() takes a number, not a {}: use i32, i64, f32 or f64", .0.name(), .1.name())]
    NotNumeric(Aggregation, DataType),
    /// The engine does not compute the function.
    #[error("{}() is not supported yet", .0.name())]
    Unsupported(Aggregation),
}

/// The type of `function`'s values over an argument of type `argument` (`None`: no argument, as in `count()`).
pub fn result_type(function: Aggregation, argument: Option<DataType>) -> Result<DataType, ArgumentError> {
    match (function, argument) {
        (Aggregation::Count, _) => Ok(DataType::I64),
        (_, None) => Err(ArgumentError::Missing(function)),
        (Aggregation::Sum | Aggregation::Mean, Some(argument)) if !argument.is_numeric() => {
            Err(ArgumentError::NotNumeric(function, argument))
        }
        (Aggregation::Sum, Some(DataType::I32 | DataType::I64)) => Ok(DataType::I64),
        (Aggregation::Sum | Aggregation::Mean, Some(_)) => Ok(DataType::F64),
        (Aggregation::Min | Aggregation::Max | Aggregation::First | Aggregation::Last, Some(argument)) => Ok(argument),
        _ => Err(ArgumentError::Unsupported(function)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_integers_stay_integers_and_means_are_floats() {
        assert_eq!(result_type(Aggregation::Sum, Some(DataType::I32)), Ok(DataType::I64));
        assert_eq!(result_type(Aggregation::Sum, Some(DataType::F32)), Ok(DataType::F64));
        assert_eq!(result_type(Aggregation::Mean, Some(DataType::I64)), Ok(DataType::F64));
    }

    #[test]
    fn picking_functions_keep_their_argument_type() {
        for argument in DataType::ALL {
            for function in [
                Aggregation::Min,
                Aggregation::Max,
                Aggregation::First,
                Aggregation::Last,
            ] {
                assert_eq!(result_type(function, Some(argument)), Ok(argument));
            }
            assert_eq!(result_type(Aggregation::Count, Some(argument)), Ok(DataType::I64));
        }
    }

    #[test]
    fn a_refusal_names_the_function_and_the_remedy() {
        let refused = result_type(Aggregation::Sum, Some(DataType::String)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "sum() takes a number, not a string: use i32, i64, f32 or f64"
        );
        assert_eq!(
            result_type(Aggregation::Last, None),
            Err(ArgumentError::Missing(Aggregation::Last))
        );
    }
}
