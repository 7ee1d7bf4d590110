//! Diagnostics as text: the offending line with a caret under the offending text.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use ondol_vocabulary::{DefinitionFiles, Diagnostic};

/// Diagnostics as text for a terminal: the offending line with a caret under the offending text.
pub fn render(files: &DefinitionFiles, diagnostics: &[Diagnostic], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let rendered = diagnostics.iter().map(|diagnostic| one(files, diagnostic, &renderer));
    rendered.collect::<Vec<_>>().join("\n\n")
}

fn one(files: &DefinitionFiles, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
    let Some(file) = files.files.iter().find(|file| file.path == diagnostic.file) else {
        // The diagnostic came from elsewhere, with a file that is not at hand.
        return format!("error[{}]: {diagnostic}", diagnostic.code);
    };
    let end = file.text.len();
    let span = (diagnostic.start as usize).min(end)..(diagnostic.end as usize).min(end);
    let snippet = Snippet::source(&file.text)
        .path(&diagnostic.file)
        .annotation(AnnotationKind::Primary.span(span));
    let mut group = Level::ERROR
        .primary_title(&diagnostic.message)
        .id(&diagnostic.code)
        .element(snippet);
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help));
    }
    renderer.render(&[group])
}
