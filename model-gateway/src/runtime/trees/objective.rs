//! What a model's sums become: each objective's own function, step by step as its library computes it.

use super::forest::single;

/// A function of a row's sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Objective {
    /// The sum itself.
    Identity,
    /// LightGBM's `regression sqrt`: the square, with the sum's sign.
    SignedSquare,
    /// LightGBM: `exp`.
    Exp,
    /// LightGBM: `1 / (1 + exp(-s x))` of each sum.
    Sigmoid(f64),
    /// LightGBM: `log(1 + exp(x))`.
    LogOnePlusExp,
    /// LightGBM: the softmax of the sums.
    Softmax,
    /// XGBoost: `exp`, in single precision.
    ExpSingle,
    /// XGBoost: its sigmoid, in single precision.
    SigmoidSingle,
    /// XGBoost's `binary:hinge`: 1 if the sum is above 0.
    Hinge,
    /// XGBoost: the softmax of the sums, in single precision.
    SoftmaxSingle,
    /// XGBoost's `multi:softmax`: the number of the greatest sum.
    ArgMax,
}

impl Objective {
    /// Values a row, of `groups` sums.
    pub(super) fn width(self, groups: usize) -> usize {
        if self == Self::ArgMax { 1 } else { groups }
    }

    /// Appends what `sums` become.
    pub(super) fn append(self, sums: &mut [f64], values: &mut Vec<f64>) {
        match self {
            Self::ArgMax => values.push(place_of_greatest(sums)),
            Self::Softmax => {
                softmax(sums);
                values.extend_from_slice(sums);
            }
            Self::SoftmaxSingle => {
                softmax_single(sums);
                values.extend_from_slice(sums);
            }
            _ => values.extend(sums.iter().map(|sum| self.of(*sum))),
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "what is computed in single precision is single already"
    )]
    fn of(self, sum: f64) -> f64 {
        match self {
            Self::SignedSquare => {
                let square = sum * sum;
                if sum < 0.0 { -square } else { square }
            }
            Self::Exp => sum.exp(),
            Self::Sigmoid(scale) => 1.0 / (1.0 + (-scale * sum).exp()),
            Self::LogOnePlusExp => sum.exp().ln_1p(),
            Self::ExpSingle => f64::from((sum as f32).exp()),
            Self::SigmoidSingle => {
                // Bounded so that the exponential stays finite, and never divided by zero.
                let power = (-(sum as f32)).min(88.7);
                let denominator = power.exp() + 1.0 + 1e-16;
                f64::from(1.0 / denominator)
            }
            Self::Hinge => f64::from(u8::from(sum > 0.0)),
            Self::Identity | Self::Softmax | Self::SoftmaxSingle | Self::ArgMax => sum,
        }
    }
}

fn softmax(sums: &mut [f64]) {
    let greatest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut whole = 0.0;
    for sum in sums.iter_mut() {
        *sum = (*sum - greatest).exp();
        whole += *sum;
    }
    sums.iter_mut().for_each(|sum| *sum /= whole);
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "computed in single precision, its total in double"
)]
fn softmax_single(sums: &mut [f64]) {
    let greatest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max) as f32;
    let mut whole = 0.0;
    for sum in sums.iter_mut() {
        *sum = f64::from((*sum as f32 - greatest).exp());
        whole += *sum;
    }
    let whole = single(whole);
    sums.iter_mut()
        .for_each(|sum| *sum = f64::from(*sum as f32 / whole as f32));
}

/// The first of the greatest.
fn place_of_greatest(sums: &[f64]) -> f64 {
    let mut best = 0;
    for (place, sum) in sums.iter().enumerate() {
        if sums.get(best).is_some_and(|greatest| sum > greatest) {
            best = place;
        }
    }
    f64::from(u32::try_from(best).unwrap_or(u32::MAX))
}
