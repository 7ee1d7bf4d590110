//! Which arguments and parameters an aggregation takes, and the type of what it answers.

use ondol_vocabulary::{Aggregation, DataType, Element};

/// The most values that a list may be asked for.
pub const MAX_VALUES: u32 = 1_000;
/// The most quantiles that one feature may ask for.
pub const MAX_QUANTILES: usize = 100;
/// The quantile of the greatest value, in millionths.
pub const WHOLE: u32 = 1_000_000;

/// Why a function does not take an argument or a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// The function needs an argument and has none.
    #[error("{}() needs an argument: write the expression to aggregate, such as {}", .0.name(), example(*.0))]
    Missing(Aggregation),
    /// The function only takes numbers.
    #[error("{}() takes a number, not a {}: use i32, i64, f32 or f64", .0.name(), .1.name())]
    NotNumeric(Aggregation, DataType),
    /// The function only takes truth values.
    #[error("{}() takes a bool, not a {}: write a condition, such as {}(amount > 100)", .0.name(), .1.name(), .0.name())]
    NotBool(Aggregation, DataType),
    /// The function takes another number of parameters.
    #[error("{}() {}, and has {}: write {}", .0.name(), needs(*.0), .1, example(*.0))]
    ParameterCount(Aggregation, usize),
    /// The function can't give so many values.
    #[error("{}() gives from 1 to {MAX_VALUES} values, not {}", .0.name(), .1)]
    ValueCount(Aggregation, u32),
    /// There is no such quantile.
    #[error("a quantile lies between 0 and 1, so {} millionths is none", .0)]
    NoQuantile(u32),
}

/// The type of `function`'s values over an argument of type `argument` (`None`: no argument, as in `count()`).
pub fn result_type(function: Aggregation, argument: Option<DataType>) -> Result<DataType, ArgumentError> {
    use Aggregation as F;
    let Some(argument) = argument else {
        return match function {
            F::Count => Ok(DataType::I64),
            _ => Err(ArgumentError::Missing(function)),
        };
    };
    let needs_number = matches!(
        function,
        F::Sum | F::Mean | F::Variance | F::VarPop | F::Stddev | F::StddevPop | F::Quantile | F::Quantiles
    );
    if needs_number && !argument.is_numeric() {
        return Err(ArgumentError::NotNumeric(function, argument));
    }
    match function {
        F::Count | F::CountDistinct => Ok(DataType::I64),
        F::Sum if matches!(argument, DataType::I32 | DataType::I64) => Ok(DataType::I64),
        F::Sum | F::Mean | F::Variance | F::VarPop | F::Stddev | F::StddevPop | F::Quantile => Ok(DataType::F64),
        F::Quantiles => Ok(DataType::List(Element::F64)),
        F::Min | F::Max | F::First | F::Last => Ok(argument),
        // No expression over a source's columns is a list, so every argument is an element.
        F::LastN | F::LastDistinct | F::TopK => Ok(argument.element().map_or(argument, DataType::List)),
        F::Any | F::All if argument == DataType::Bool => Ok(DataType::Bool),
        F::Any | F::All => Err(ArgumentError::NotBool(function, argument)),
    }
}

/// Whether `function` takes these parameters: how many values, or quantiles in millionths.
pub fn check_parameters(function: Aggregation, parameters: &[u32]) -> Result<(), ArgumentError> {
    let fits = parameter_range(function).contains(&parameters.len());
    if !fits {
        return Err(ArgumentError::ParameterCount(function, parameters.len()));
    }
    let wrong = |parameter: &u32| match function {
        Aggregation::Quantile | Aggregation::Quantiles => {
            (*parameter > WHOLE).then_some(ArgumentError::NoQuantile(*parameter))
        }
        _ => (!(1..=MAX_VALUES).contains(parameter)).then_some(ArgumentError::ValueCount(function, *parameter)),
    };
    parameters.iter().find_map(wrong).map_or(Ok(()), Err)
}

/// How many parameters `function` takes.
pub(crate) fn parameter_range(function: Aggregation) -> std::ops::RangeInclusive<usize> {
    match function {
        Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK | Aggregation::Quantile => 1..=1,
        Aggregation::Quantiles => 1..=MAX_QUANTILES,
        _ => 0..=0,
    }
}

/// How `function` is called, for a message.
pub(crate) fn example(function: Aggregation) -> String {
    let name = function.name();
    match function {
        Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK => format!("{name}(amount, 10)"),
        Aggregation::Quantile => format!("{name}(amount, 0.95)"),
        Aggregation::Quantiles => format!("{name}(amount, 0.5, 0.95)"),
        Aggregation::Any | Aggregation::All => format!("{name}(amount > 100)"),
        _ => format!("{name}(amount)"),
    }
}

fn needs(function: Aggregation) -> String {
    match function {
        Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK => {
            "takes the number of values after its argument".to_owned()
        }
        Aggregation::Quantile => "takes one quantile after its argument".to_owned(),
        Aggregation::Quantiles => format!("takes from 1 to {MAX_QUANTILES} quantiles after its argument"),
        _ => "takes no parameters".to_owned(),
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
        assert_eq!(result_type(Aggregation::Stddev, Some(DataType::I64)), Ok(DataType::F64));
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
            for function in [Aggregation::LastN, Aggregation::LastDistinct, Aggregation::TopK] {
                let list = DataType::List(argument.element().unwrap());
                assert_eq!(result_type(function, Some(argument)), Ok(list));
            }
            for function in [Aggregation::Count, Aggregation::CountDistinct] {
                assert_eq!(result_type(function, Some(argument)), Ok(DataType::I64));
            }
        }
    }

    #[test]
    fn a_refusal_names_the_function_and_the_remedy() {
        let refused = |function, argument| result_type(function, argument).unwrap_err().to_string();
        assert_eq!(
            refused(Aggregation::Sum, Some(DataType::String)),
            "sum() takes a number, not a string: use i32, i64, f32 or f64"
        );
        assert_eq!(
            refused(Aggregation::Any, Some(DataType::F64)),
            "any() takes a bool, not a f64: write a condition, such as any(amount > 100)"
        );
        assert_eq!(
            refused(Aggregation::LastN, None),
            "last_n() needs an argument: write the expression to aggregate, such as last_n(amount, 10)"
        );
        assert_eq!(
            result_type(Aggregation::Last, None),
            Err(ArgumentError::Missing(Aggregation::Last))
        );
    }

    #[test]
    fn parameters_are_counted_and_bounded() {
        let refused = |function, parameters: &[u32]| check_parameters(function, parameters).unwrap_err().to_string();
        assert_eq!(check_parameters(Aggregation::TopK, &[MAX_VALUES]), Ok(()));
        assert_eq!(check_parameters(Aggregation::Quantiles, &[0, WHOLE]), Ok(()));
        assert_eq!(
            refused(Aggregation::LastN, &[0]),
            "last_n() gives from 1 to 1000 values, not 0"
        );
        assert_eq!(
            refused(Aggregation::Sum, &[1]),
            "sum() takes no parameters, and has 1: write sum(amount)"
        );
        assert_eq!(
            refused(Aggregation::Quantile, &[WHOLE + 1]),
            "a quantile lies between 0 and 1, so 1000001 millionths is none"
        );
    }
}
