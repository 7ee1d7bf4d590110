//! The syntax of an aggregation: `function(argument) filter (where condition) over duration`.
//!
//! The parts are found by a small scanner that knows parentheses and quotes; what stands inside them is left to
//! [`crate::expression`]. A text that is no aggregation is an ordinary expression.

use super::duration;
use crate::nearest::nearest;
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
    let Some(function) = function(&word) else {
        return scan.unknown_function(&word, name.clone());
    };
    let close = scan.close_of(1)?;
    let argument = scan.argument(function, close)?;
    let (filter, next) = scan.filter(close + 1)?;
    let width = scan.over(next)?;
    Ok(Some(Syntax {
        function,
        name: name.clone(),
        argument,
        filter,
        width,
    }))
}

fn function(word: &str) -> Option<Aggregation> {
    match word {
        "avg" => Some(Aggregation::Mean),
        _ => Aggregation::ALL.into_iter().find(|function| function.name() == word),
    }
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
                Kind::Word | Kind::Other => {}
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
        let help = match nearest(word, Aggregation::ALL.map(Aggregation::name)) {
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

    fn argument(&self, function: Aggregation, close: usize) -> Result<Option<Range<usize>>, SyntaxError> {
        if self.is_keyword(2, "distinct") {
            let message = format!("`{}(distinct …)` is not supported yet", function.name());
            return Err(error("invalid-aggregation", self.start(2)..self.end(2), &message, None));
        }
        if close == 2 {
            return Ok(None);
        }
        let argument = self.start(2)..self.end(close - 1);
        let is_star = self.text.get(argument.clone()) == Some("*");
        Ok(if is_star && function == Aggregation::Count {
            None
        } else {
            Some(argument)
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

    /// `function | argument | filter | seconds`.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match parse(text) {
            Ok(None) => "expression".to_owned(),
            Ok(Some(syntax)) => {
                let part = |range: Option<Range<usize>>| range.map_or("-", |range| &text[range]);
                let seconds = syntax
                    .width
                    .map_or("-".to_owned(), |(micros, _)| (micros / 1_000_000).to_string());
                format!(
                    "{} | {} | {} | {seconds}",
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
        check(
            "first(case when x = ')' then 'it''s (' end) over 1d",
            "first | case when x = ')' then 'it''s (' end | - | 86400",
        );
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
        check(
            "count(distinct a)",
            "`count(distinct …)` is not supported yet @ distinct",
        );
    }
}
