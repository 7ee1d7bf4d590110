//! The syntax of an aggregation: `function(argument, parameters) filter (where condition) over duration`.
//!
//! The parts are found by a small scanner that knows parentheses and quotes; what stands inside them is left to
//! [`crate::expression`]. A text that is no aggregation is an ordinary expression.

use super::duration;
use crate::nearest::nearest;
use crate::row::{MAX_QUANTILES, MAX_VALUES, WHOLE, example, parameter_range};
use ondol_vocabulary::Aggregation;
use std::ops::Range;

/// An aggregation's parts, as byte ranges of its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    pub(super) function: Aggregation,
    /// Where the function's name stands.
    pub(super) name: Range<usize>,
    /// Absent for `count()` and `count(*)`.
    pub(super) argument: Option<Range<usize>>,
    /// How many values, or quantiles in millionths.
    pub(super) parameters: Vec<u32>,
    pub(super) filter: Option<Range<usize>>,
    /// The window's width in microseconds, and where it stands.
    pub(super) width: Option<(i64, Range<usize>)>,
}

/// What is wrong with an aggregation, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) code: &'static str,
    pub(super) at: Range<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Parses `text`; `None` when it is no aggregation but an ordinary expression.
pub(super) fn parse(text: &str) -> Result<Option<Syntax>, SyntaxError> {
    let tokens = scan(text);
    let [
        Token {
            kind: Kind::Word,
            at: name,
        },
        Token { kind: Kind::Open, .. },
        ..,
    ] = tokens.as_slice()
    else {
        return Ok(None);
    };
    let word = text.get(name.clone()).unwrap_or_default().to_lowercase();
    let scan = Scan { text, tokens: &tokens };
    let Some((function, implied)) = function(&word) else {
        return scan.unknown_function(&word, name.clone());
    };
    let close = scan.close_of(1)?;
    let (function, first) = scan.distinct(function)?;
    let (argument, mut parameters) = scan.arguments(function, first, close, implied.is_some())?;
    parameters.extend(implied);
    let (filter, next) = scan.filter(close + 1)?;
    let width = scan.over(next)?;
    Ok(Some(Syntax {
        function,
        name: name.clone(),
        argument,
        parameters,
        filter,
        width,
    }))
}

/// Other names of functions, some with a parameter.
const ALIASES: [(&str, Aggregation, Option<u32>); 4] = [
    ("avg", Aggregation::Mean, None),
    ("var_samp", Aggregation::Variance, None),
    ("stddev_samp", Aggregation::Stddev, None),
    ("median", Aggregation::Quantile, Some(WHOLE / 2)),
];

/// The function called `word`, and the parameter that the name implies.
fn function(word: &str) -> Option<(Aggregation, Option<u32>)> {
    let alias = ALIASES.iter().find(|(alias, ..)| *alias == word);
    let alias = alias.map(|(_, function, implied)| (*function, *implied));
    alias.or_else(|| {
        let function = Aggregation::ALL.into_iter().find(|function| function.name() == word)?;
        Some((function, None))
    })
}

/// Every name of a function.
fn names() -> impl Iterator<Item = &'static str> {
    let aliases = ALIASES.iter().map(|(alias, ..)| *alias);
    Aggregation::ALL.into_iter().map(Aggregation::name).chain(aliases)
}

/// The functions, for a message.
fn functions() -> String {
    Aggregation::ALL.map(Aggregation::name).join(", ")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Open,
    Close,
    Comma,
    Other,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

/// Words, parentheses, and everything else one character or one quoted text at a time.
fn scan(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if c.is_whitespace() {
            continue;
        }
        let mut end = start + c.len_utf8();
        let kind = match c {
            '(' => Kind::Open,
            ')' => Kind::Close,
            ',' => Kind::Comma,
            // A doubled quote closes and opens again: two tokens, with the same effect.
            '\'' | '"' => {
                end = chars
                    .find(|(_, next)| *next == c)
                    .map_or(text.len(), |(quote, _)| quote + 1);
                Kind::Other
            }
            c if is_word(c) => {
                while let Some((at, next)) = chars.next_if(|(_, next)| is_word(*next)) {
                    end = at + next.len_utf8();
                }
                Kind::Word
            }
            _ => Kind::Other,
        };
        tokens.push(Token { kind, at: start..end });
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Scan<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

impl Scan<'_> {
    fn is_keyword(&self, index: usize, keyword: &str) -> bool {
        self.tokens.get(index).is_some_and(|token| {
            token.kind == Kind::Word
                && self
                    .text
                    .get(token.at.clone())
                    .is_some_and(|w| w.eq_ignore_ascii_case(keyword))
        })
    }

    fn start(&self, index: usize) -> usize {
        self.tokens.get(index).map_or(self.text.len(), |token| token.at.start)
    }

    fn end(&self, index: usize) -> usize {
        self.tokens.get(index).map_or(self.text.len(), |token| token.at.end)
    }

    /// From token `first` to the end of the text.
    fn rest(&self, first: usize) -> Range<usize> {
        self.start(first)..self.tokens.last().map_or(self.text.len(), |token| token.at.end)
    }

    /// The parenthesis that closes the one at token `open`.
    fn close_of(&self, open: usize) -> Result<usize, SyntaxError> {
        let mut depth = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close if depth == 1 => return Ok(index),
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Word | Kind::Comma | Kind::Other => {}
            }
        }
        Err(error(
            "invalid-aggregation",
            self.start(open)..self.end(open),
            "this `(` is never closed",
            None,
        ))
    }

    /// A call of no aggregation: an ordinary expression, unless what follows shows that one was meant.
    fn unknown_function(&self, word: &str, name: Range<usize>) -> Result<Option<Syntax>, SyntaxError> {
        let Ok(close) = self.close_of(1) else { return Ok(None) };
        if !self.is_keyword(close + 1, "over") && !self.is_keyword(close + 1, "filter") {
            return Ok(None);
        }
        let help = match nearest(word, names()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("aggregations: {}", functions()),
        };
        Err(error(
            "unknown-aggregation",
            name,
            &format!("there is no aggregation `{word}`"),
            Some(&help),
        ))
    }

    /// The function that is meant if `distinct` stands before the argument, and the argument's first token.
    fn distinct(&self, function: Aggregation) -> Result<(Aggregation, usize), SyntaxError> {
        // A column may have that name.
        let is_column = self
            .tokens
            .get(3)
            .is_none_or(|next| matches!(next.kind, Kind::Close | Kind::Comma));
        if !self.is_keyword(2, "distinct") || is_column {
            return Ok((function, 2));
        }
        match function {
            Aggregation::Count | Aggregation::CountDistinct => Ok((Aggregation::CountDistinct, 3)),
            Aggregation::LastN | Aggregation::LastDistinct => Ok((Aggregation::LastDistinct, 3)),
            _ => {
                let message = format!("`{}` does not take `distinct`", function.name());
                let help = Some("`distinct` goes with `count` and `last_n`");
                Err(error("invalid-aggregation", self.start(2)..self.end(2), &message, help))
            }
        }
    }

    /// The argument between token `first` and the parenthesis at token `close`, and the parameters that follow it.
    fn arguments(
        &self,
        function: Aggregation,
        first: usize,
        close: usize,
        is_complete: bool,
    ) -> Result<(Option<Range<usize>>, Vec<u32>), SyntaxError> {
        if close <= first {
            return Ok((None, Vec::new()));
        }
        let takes_parameters = *parameter_range(function).end() > 0 && !is_complete;
        let comma = self.comma(first, close).filter(|_| takes_parameters);
        let argument = self.start(first)..self.end(comma.unwrap_or(close) - 1);
        let is_star = self.text.get(argument.clone()) == Some("*");
        if is_star && function == Aggregation::Count {
            return Ok((None, Vec::new()));
        }
        let mut parameters = Vec::new();
        let mut next = comma;
        while let Some(comma) = next {
            let end = self.comma(comma + 1, close);
            let at = self.end(comma)..self.start(end.unwrap_or(close));
            parameters.push(self.parameter(function, at)?);
            next = end;
        }
        let range = parameter_range(function);
        if takes_parameters && !range.contains(&parameters.len()) {
            let message = match function {
                Aggregation::Quantile => "`quantile` takes one quantile after its argument".to_owned(),
                Aggregation::Quantiles => {
                    format!("`quantiles` takes from 1 to {MAX_QUANTILES} quantiles after its argument")
                }
                _ => format!("`{}` takes the number of values after its argument", function.name()),
            };
            let help = format!("write `{}`", example(function));
            return Err(error(
                "invalid-parameter",
                self.start(0)..self.end(close),
                &message,
                Some(&help),
            ));
        }
        Ok((Some(argument), parameters))
    }

    /// The first comma from token `first` on that stands in no parentheses before token `close`.
    fn comma(&self, first: usize, close: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().take(close).skip(first) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Comma if depth == 0 => return Some(index),
                Kind::Comma | Kind::Word | Kind::Other => {}
            }
        }
        None
    }

    fn parameter(&self, function: Aggregation, at: Range<usize>) -> Result<u32, SyntaxError> {
        let written = self.text.get(at.clone()).unwrap_or_default();
        let lead = written.len() - written.trim_start().len();
        let written = written.trim();
        let at = at.start + lead..at.start + lead + written.len();
        let is_quantile = matches!(function, Aggregation::Quantile | Aggregation::Quantiles);
        let found = if is_quantile {
            millionths(written)
        } else {
            values(written)
        };
        found.ok_or_else(|| {
            let (what, help) = if is_quantile {
                (
                    "quantile",
                    "write a number from 0 to 1, with at most 6 decimals".to_owned(),
                )
            } else {
                (
                    "number of values",
                    format!("write a whole number from 1 to {MAX_VALUES}"),
                )
            };
            let message = format!("`{written}` is no {what}");
            error("invalid-parameter", at, &message, Some(&help))
        })
    }

    /// The condition of `filter (where …)` if it stands at token `at`, and the token after it.
    fn filter(&self, at: usize) -> Result<(Option<Range<usize>>, usize), SyntaxError> {
        if !self.is_keyword(at, "filter") {
            return Ok((None, at));
        }
        let help = Some("write `filter (where condition)`");
        let is_open = self.tokens.get(at + 1).is_some_and(|token| token.kind == Kind::Open);
        if !is_open || !self.is_keyword(at + 2, "where") {
            let message = "`filter` needs a condition in parentheses";
            return Err(error(
                "invalid-aggregation",
                self.start(at)..self.end(at),
                message,
                help,
            ));
        }
        let close = self.close_of(at + 1)?;
        if close == at + 3 {
            let message = "the filter has no condition";
            return Err(error(
                "invalid-aggregation",
                self.start(at + 2)..self.end(at + 2),
                message,
                help,
            ));
        }
        Ok((Some(self.start(at + 3)..self.end(close - 1)), close + 1))
    }

    /// The width of `over duration` at token `at`, which is the end of an aggregation.
    fn over(&self, at: usize) -> Result<Option<(i64, Range<usize>)>, SyntaxError> {
        if at >= self.tokens.len() {
            return Ok(None);
        }
        if !self.is_keyword(at, "over") {
            return Err(self.leftover(at));
        }
        let width = self.start(at + 1)..self.end(at + 1);
        match duration::parse(self.text.get(width.clone()).unwrap_or_default()) {
            Ok(0) => {
                let message = "a window of 0 covers nothing";
                Err(error("invalid-duration", width, message, Some("the least is 1s")))
            }
            Ok(_) if self.is_keyword(at + 2, "filter") => {
                let help = Some("write `filter (where …) over …`");
                Err(error(
                    "invalid-aggregation",
                    self.rest(at + 2),
                    "`filter` goes before `over`",
                    help,
                ))
            }
            Ok(_) if at + 2 < self.tokens.len() => Err(self.leftover(at + 2)),
            Ok(micros) => Ok(Some((micros, width))),
            Err(_) if at + 1 == self.tokens.len() => {
                let help = Some("write `over 1h`");
                Err(error(
                    "invalid-duration",
                    self.rest(at),
                    "`over` needs a duration",
                    help,
                ))
            }
            Err(help) => {
                let rest = self.rest(at + 1);
                let written = self.text.get(rest.clone()).unwrap_or_default();
                Err(error(
                    "invalid-duration",
                    rest,
                    &format!("`{written}` is no duration"),
                    Some(&help),
                ))
            }
        }
    }

    fn leftover(&self, at: usize) -> SyntaxError {
        let rest = self.rest(at);
        let written = self.text.get(rest.clone()).unwrap_or_default();
        let message = format!("an aggregation ends before `{written}`: it can't be part of a larger expression");
        let help = "make each aggregation a feature of its own, and combine them in a model's `derived`";
        error("invalid-aggregation", rest, &message, Some(help))
    }
}

/// A number of values to keep.
fn values(written: &str) -> Option<u32> {
    let digits = written.bytes().all(|byte| byte.is_ascii_digit());
    let number = written.parse().ok().filter(|_| digits)?;
    (1..=MAX_VALUES).contains(&number).then_some(number)
}

/// A quantile, exactly: `0.95` has no double of its own.
fn millionths(written: &str) -> Option<u32> {
    const DECIMALS: usize = 6;
    let (whole, decimals) = written.split_once('.').unwrap_or((written, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS || whole.len() + decimals.len() == 0 {
        return None;
    }
    let number: u64 = format!("0{whole}{decimals:0<DECIMALS$}").parse().ok()?;
    u32::try_from(number).ok().filter(|number| *number <= WHOLE)
}

fn error(code: &'static str, at: Range<usize>, message: &str, help: Option<&str>) -> SyntaxError {
    SyntaxError {
        code,
        at,
        message: message.to_owned(),
        help: help.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `function | argument and parameters | filter | seconds`.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match parse(text) {
            Ok(None) => "expression".to_owned(),
            Ok(Some(syntax)) => {
                let part = |range: Option<Range<usize>>| range.map_or("-", |range| &text[range]);
                let seconds = syntax
                    .width
                    .map_or("-".to_owned(), |(micros, _)| (micros / 1_000_000).to_string());
                let parameters: String = syntax.parameters.iter().map(|number| format!(", {number}")).collect();
                format!(
                    "{} | {}{parameters} | {} | {seconds}",
                    syntax.function.name(),
                    part(syntax.argument),
                    part(syntax.filter)
                )
            }
            Err(error) => format!("{} @ {}", error.message, &text[error.at]),
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_parts_are_found() {
        check("count() over 1h", "count | - | - | 3600");
        check("count(*)", "count | - | - | -");
        check("sum(amount) over 24h", "sum | amount | - | 86400");
        check(" AVG ( a + b )  OVER 30s ", "mean | a + b | - | 30");
        check(
            "count() filter (where declined) over 7d",
            "count | - | declined | 604800",
        );
        check("last(amount)", "last | amount | - | -");
        check(
            "max(coalesce(a, (b))) FILTER(WHERE (x) or y) over 15m",
            "max | coalesce(a, (b)) | (x) or y | 900",
        );
        check("var_samp(a)", "variance | a | - | -");
        check("stddev_samp(a)", "stddev | a | - | -");
        check("any(a > 1) over 1h", "any | a > 1 | - | 3600");
        check("max(greatest(a, b))", "max | greatest(a, b) | - | -");
        check(
            "first(case when x = ')' then 'it''s (' end) over 1d",
            "first | case when x = ')' then 'it''s (' end | - | 86400",
        );
    }

    #[test]
    fn parameters_follow_the_argument() {
        check("last_n(a, 10) over 7d", "last_n | a, 10 | - | 604800");
        check("last_n(coalesce(a, b) , 1000)", "last_n | coalesce(a, b), 1000 | - | -");
        check("last_n(distinct a, 3)", "last_distinct | a, 3 | - | -");
        check("last_distinct(a || ',', 3)", "last_distinct | a || ',', 3 | - | -");
        check("top_k(a, 5) filter (where b)", "top_k | a, 5 | b | -");
        check("quantile(a, 0.95)", "quantile | a, 950000 | - | -");
        check(
            "quantiles(a, .5, 1, 0.999999, 0)",
            "quantiles | a, 500000, 1000000, 999999, 0 | - | -",
        );
        check("MEDIAN(a) over 1h", "quantile | a, 500000 | - | 3600");
        check("count(distinct a) over 1h", "count_distinct | a | - | 3600");
        check("count_distinct(a)", "count_distinct | a | - | -");
        check("count(distinct)", "count | distinct | - | -");
        check("last_n(distinct, 3)", "last_n | distinct, 3 | - | -");
    }

    #[test]
    fn other_texts_are_expressions() {
        check("amount", "expression");
        check("abs(amount)", "expression");
        check("first", "expression");
        check("1 + sum(amount)", "expression");
        check("", "expression");
    }

    #[test]
    fn mistakes_are_found_where_they_stand() {
        check(
            "sum(a) / count()",
            "an aggregation ends before `/ count()`: it can't be part of a larger expression @ / count()",
        );
        check(
            "sum(a) over 1h + 1",
            "an aggregation ends before `+ 1`: it can't be part of a larger expression @ + 1",
        );
        check("sum(a", "this `(` is never closed @ (");
        check("sum(a) over", "`over` needs a duration @ over");
        check(
            "sum(a) over (order by x)",
            "`(order by x)` is no duration @ (order by x)",
        );
        check("sum(a) over 1.5h", "`1.5h` is no duration @ 1.5h");
        check("sum(a) over 0s", "a window of 0 covers nothing @ 0s");
        check(
            "sum(a) over 1h filter (where b)",
            "`filter` goes before `over` @ filter (where b)",
        );
        check("sum(a) filter b", "`filter` needs a condition in parentheses @ filter");
        check("sum(a) filter (where)", "the filter has no condition @ where");
        check("summ(a) over 1h", "there is no aggregation `summ` @ summ");
        check("sum(distinct a)", "`sum` does not take `distinct` @ distinct");
        check(
            "last_n(a)",
            "`last_n` takes the number of values after its argument @ last_n(a)",
        );
        check("last_n(a, 0)", "`0` is no number of values @ 0");
        check("top_k(a, 1001) over 1h", "`1001` is no number of values @ 1001");
        check("top_k(a, n + 1)", "`n + 1` is no number of values @ n + 1");
        check("last_n(a, )", "`` is no number of values @ ");
        check("quantile(a, 95)", "`95` is no quantile @ 95");
        check("quantile(a, 1e-1)", "`1e-1` is no quantile @ 1e-1");
        check("quantiles(a, 0.5, 0.1234567)", "`0.1234567` is no quantile @ 0.1234567");
        check(
            "quantile(a, 0.5, 0.6)",
            "`quantile` takes one quantile after its argument @ quantile(a, 0.5, 0.6)",
        );
    }
}
