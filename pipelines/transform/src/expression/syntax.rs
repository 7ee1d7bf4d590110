//! From text to a syntax tree whose names are resolved: every column exists, every function is row-wise and
//! deterministic. What is refused here is refused with the place of the offending name.

use super::ExpressionError;
use super::functions::{Meaning, meaning};
use crate::nearest::nearest;
use arrow::datatypes::Schema;
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Spanned, Value, VisitMut, VisitorMut,
    visit_expressions,
};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token};
use std::ops::ControlFlow;

/// How deep an expression may nest. Definitions come from people, but through an API: a bound keeps the stack.
const MAX_DEPTH: usize = 100;
/// How many operations may hang on each other: `a + b + c` nests without a parenthesis, and a plan is walked by
/// recursion wherever it is evaluated.
const MAX_OPERATIONS: usize = 200;
/// How deep forms may nest that planning writes out with an operand repeated (`coalesce(a, b)` becomes
/// `case when a is not null then a else b end`): each level at least doubles the plan.
const MAX_REPEATS: usize = 10;
/// How long an expression may be, in bytes. It bounds the tree that stands before its depth is known.
const MAX_BYTES: usize = 16_384;

/// A resolved syntax tree, and the columns it reads in order of first use.
#[derive(Debug)]
pub(super) struct Syntax {
    pub(super) tree: Expr,
    pub(super) columns: Vec<String>,
}

/// Parses `text` and resolves its names against `schema`.
pub(super) fn parse(text: &str, schema: &Schema) -> Result<Syntax, ExpressionError> {
    let mut tree = parse_tree(text)?;
    let mut resolver = Resolver {
        text,
        schema,
        columns: Vec::new(),
        depth: 0,
        repeats: 0,
    };
    match tree.visit(&mut resolver) {
        ControlFlow::Continue(()) => Ok(Syntax {
            tree,
            columns: resolver.columns,
        }),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The names that `text` reads, resolved or not, in order of first use.
pub(super) fn names(text: &str) -> Result<Vec<String>, ExpressionError> {
    let tree = parse_tree(text)?;
    let mut found: Vec<String> = Vec::new();
    let _: ControlFlow<()> = visit_expressions(&tree, |expr| {
        let name = match expr {
            Expr::Identifier(name) => name.value.clone(),
            Expr::CompoundIdentifier(parts) => dotted(parts),
            _ => return ControlFlow::Continue(()),
        };
        if !found.contains(&name) {
            found.push(name);
        }
        ControlFlow::Continue(())
    });
    Ok(found)
}

fn dotted(parts: &[Ident]) -> String {
    parts
        .iter()
        .map(|part| part.value.as_str())
        .collect::<Vec<_>>()
        .join(".")
}

fn parse_tree(text: &str) -> Result<Expr, ExpressionError> {
    if text.trim().is_empty() {
        return Err(refusal("the expression is empty".to_owned(), Some(0)));
    }
    if text.len() > MAX_BYTES {
        let message = format!("the expression has {} bytes; {MAX_BYTES} is the most", text.len());
        return Err(refusal(message, None));
    }
    let parser_error = |error| from_parser(text, error);
    let mut parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(MAX_DEPTH)
        .try_with_sql(text)
        .map_err(parser_error)?;
    let tree = parser.parse_expr().map_err(parser_error)?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let message = format!("`{}` is not expected here: the expression ends before it", next.token);
        return Err(refusal(message, byte_offset(text, next.span.start)));
    }
    Ok(tree)
}

/// A parser error with its place taken out of its words.
fn from_parser(text: &str, error: ParserError) -> ExpressionError {
    let words = match error {
        ParserError::TokenizerError(words) | ParserError::ParserError(words) => words,
        ParserError::RecursionLimitExceeded => {
            return refusal(format!("the expression nests more than {MAX_DEPTH} levels deep"), None);
        }
    };
    let Some((message, place)) = words.rsplit_once(" at Line: ") else {
        // The parser has no place for the end of the text.
        let end = words.contains("found: EOF").then(|| text.trim_end().len());
        return refusal(readable(&words), end);
    };
    let mut numbers = place
        .split(", Column: ")
        .map(|number| number.trim().parse::<u64>().unwrap_or(0));
    let location = Location {
        line: numbers.next().unwrap_or(0),
        column: numbers.next().unwrap_or(0),
    };
    refusal(readable(message), byte_offset(text, location))
}

fn readable(words: &str) -> String {
    let words = words
        .replace("found: EOF", "found the end of the expression")
        .replace("found: ", "found ");
    match words.strip_prefix("Expected: ") {
        Some(rest) => format!("expected {rest}"),
        None => words,
    }
}

/// The parser counts lines and characters from 1; 0 means that it does not know.
fn byte_offset(text: &str, location: Location) -> Option<usize> {
    let line = usize::try_from(location.line.checked_sub(1)?).ok()?;
    let column = usize::try_from(location.column.checked_sub(1)?).ok()?;
    let start = match line {
        0 => 0,
        _ => text.match_indices('\n').nth(line - 1)?.0 + 1,
    };
    let rest = text.get(start..)?;
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(offset, _)| offset))
}

fn refusal(message: String, offset: Option<usize>) -> ExpressionError {
    ExpressionError::Plan {
        message,
        offset,
        suggestion: None,
    }
}

fn repeats_an_operand(expr: &Expr) -> bool {
    match expr {
        Expr::Case { .. } | Expr::Between { .. } | Expr::InList { .. } => true,
        Expr::Function(call) => {
            let name = call.name.to_string().replace('"', "").to_lowercase();
            matches!(name.as_str(), "coalesce" | "nvl" | "ifnull" | "nvl2")
        }
        _ => false,
    }
}

struct Resolver<'a> {
    text: &'a str,
    schema: &'a Schema,
    columns: Vec<String>,
    depth: usize,
    repeats: usize,
}

impl VisitorMut for Resolver<'_> {
    type Break = ExpressionError;

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<ExpressionError> {
        ControlFlow::Break(refusal(
            "a subquery can't be used: an expression sees one row".to_owned(),
            None,
        ))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<ExpressionError> {
        self.depth += 1;
        if self.depth > MAX_OPERATIONS {
            let message =
                format!("more than {MAX_OPERATIONS} operations hang on each other: make features of its parts");
            return ControlFlow::Break(refusal(message, None));
        }
        self.repeats += usize::from(repeats_an_operand(expr));
        if self.repeats > MAX_REPEATS {
            let message = format!("`case`, `coalesce`, `between` and `in` nest more than {MAX_REPEATS} levels deep");
            return ControlFlow::Break(refusal(message, None));
        }
        match self.resolve(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<ExpressionError> {
        self.depth -= 1;
        self.repeats -= usize::from(repeats_an_operand(expr));
        ControlFlow::Continue(())
    }
}

impl Resolver<'_> {
    fn resolve(&mut self, expr: &mut Expr) -> Result<(), ExpressionError> {
        match expr {
            Expr::Identifier(name) => *expr = self.column(std::slice::from_ref(name))?,
            Expr::CompoundIdentifier(parts) => *expr = self.column(parts)?,
            Expr::Function(function) => {
                if let Some(column) = self.keyword_column(function) {
                    *expr = self.column(&[column])?;
                } else {
                    self.function(function)?;
                }
            }
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::InUnnest { .. } => {
                return Err(self.refuse(expr, "a subquery can't be used: an expression sees one row"));
            }
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
                return Err(self.refuse(expr, "`*` can't be used here: name a column"));
            }
            Expr::Substring {
                substring_from: None,
                substring_for: None,
                ..
            } => {
                return Err(self.refuse(expr, "`substr` needs a start: `substr(text, start, length)`"));
            }
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                return Err(self.refuse(expr, "a placeholder can't be used here: write the value"));
            }
            Expr::CompoundFieldAccess { .. } | Expr::JsonAccess { .. } | Expr::Array(_) | Expr::Map(_) => {
                return Err(self.refuse(expr, "lists and maps are not supported: values are scalars"));
            }
            Expr::Lambda(_) | Expr::MatchAgainst { .. } | Expr::OuterJoin(_) | Expr::Prior(_) => {
                return Err(self.refuse(expr, "this form of expression is not supported"));
            }
            _ => {}
        }
        Ok(())
    }

    /// `user` and a few other words are functions without parentheses, unless the schema has such a column.
    fn keyword_column(&self, function: &Function) -> Option<Ident> {
        match (function.name.0.as_slice(), &function.args) {
            ([ObjectNamePart::Identifier(name)], FunctionArguments::None) => {
                self.schema.field_with_name(&name.value).ok().map(|_| name.clone())
            }
            _ => None,
        }
    }

    /// The column that `parts`, joined by dots, name.
    fn column(&mut self, parts: &[Ident]) -> Result<Expr, ExpressionError> {
        let name = parts
            .iter()
            .map(|part| part.value.as_str())
            .collect::<Vec<_>>()
            .join(".");
        let start = parts.first().map(|part| part.span.start);
        let offset = || start.and_then(|start| byte_offset(self.text, start));
        match self.schema.field_with_name(&name) {
            Ok(field) if field.data_type().is_nested() => {
                let message = format!(
                    "`{name}` is a list, which no expression can read: use it as a feature as it is, or make a scalar \
                     of it in its view, such as last(), max() or quantile()"
                );
                return Err(refusal(message, offset()));
            }
            Ok(_) => {}
            Err(_) => {
                let columns = self.schema.fields().iter().map(|field| field.name().as_str());
                let suggestion = nearest(&name, columns).map(str::to_owned);
                return Err(ExpressionError::Unknown {
                    noun: "column",
                    offset: offset(),
                    name,
                    suggestion,
                });
            }
        }
        if !self.columns.contains(&name) {
            self.columns.push(name.clone());
        }
        Ok(Expr::Identifier(Ident::with_quote('"', name)))
    }

    fn function(&self, function: &mut Function) -> Result<(), ExpressionError> {
        let offset = byte_offset(self.text, function.name.span().start);
        // Function names have no case.
        let name = function.name.to_string().replace('"', "").to_lowercase();
        if function.over.is_some() {
            return Err(refusal(
                format!("`{name}(…) over` can't be used inside an expression"),
                offset,
            ));
        }
        match meaning(&name) {
            Meaning::RowWise => {}
            Meaning::Aggregate => {
                let message = format!(
                    "`{name}` is an aggregation, which can't be part of an expression: make it a feature of its own, \
                     and combine features in a model's `derived`"
                );
                return Err(refusal(message, offset));
            }
            Meaning::Volatile => {
                let message = format!(
                    "`{name}` is not deterministic: a feature must have the same value whenever it is computed"
                );
                return Err(refusal(message, offset));
            }
            Meaning::Unknown(suggestion) => {
                return Err(ExpressionError::Unknown {
                    noun: "function",
                    name,
                    offset,
                    suggestion,
                });
            }
        }
        if function.filter.is_some() {
            return Err(refusal(
                format!("`{name}` is no aggregation, so it can't have a filter"),
                offset,
            ));
        }
        function.name = ObjectName::from(Ident::new(name));
        Ok(())
    }

    fn refuse(&self, expr: &Expr, message: &str) -> ExpressionError {
        refusal(message.to_owned(), byte_offset(self.text, expr.span().start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_an_expression_is_refused_where_it_stands() {
        use arrow::datatypes::Field;
        use ondol_vocabulary::{DataType, Element};
        let list = DataType::List(Element::F64).arrow();
        let schema = Schema::new(vec![Field::new("card.recent", list, true)]);
        let Err(ExpressionError::Plan { message, offset, .. }) = parse("1 + coalesce(card.recent, 2)", &schema) else {
            panic!("it is refused")
        };
        assert!(message.starts_with("`card.recent` is a list"), "{message}");
        assert_eq!(offset, Some(13));
    }

    #[test]
    fn places_are_bytes_though_the_parser_counts_characters() {
        let text = "'온돌' ||\n  'é' || x";
        assert_eq!(byte_offset(text, Location { line: 2, column: 10 }), text.find('x'));
        assert_eq!(byte_offset(text, Location { line: 0, column: 0 }), None);
    }
}
