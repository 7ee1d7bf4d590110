//! What a model says of features that are not fresh, and of its decisions.

use super::*;
use ondol_vocabulary::{Audit, DecisionPolicy, ModelPolicy, Remedy};

fn with(lines: &str) -> String {
    format!("{DESIGN}\n{lines}\n")
}

fn refused(lines: &str) -> String {
    let files = files(&[&with(lines)]);
    render(&files, &compile(&files).unwrap_err(), false)
}

#[test]
fn a_model_without_a_policy_has_the_usual_one() {
    let model = &compiled(DESIGN).models[0];
    assert_eq!(model.policy, ModelPolicy::default());
    assert_eq!(model.decisions, DecisionPolicy::default());
    let json = serde_json::to_value(model).unwrap();
    assert!(json.get("policy").is_none() && json.get("decisions").is_none());
}

#[test]
fn a_policy_says_what_to_do_about_each_trouble() {
    let text = with(
        r#"policy = { stale = "reject", missing = "default", unavailable = "fraud@2", changed = "reject", lookup = "20ms" }
           decisions = { sample = "0.5%" }"#,
    );
    let model = &compiled(&text).models[0];
    let policy = ModelPolicy {
        stale: Remedy::Reject,
        missing: Remedy::Default,
        unavailable: Remedy::Version(2),
        changed: Remedy::Reject,
        lookup_ms: Some(20),
    };
    assert_eq!(model.policy, policy);
    assert_eq!(model.decisions.sample_ppm, 5_000);
    let stored = serde_json::to_string(model).unwrap();
    assert_eq!(serde_json::from_str::<ModelDefinition>(&stored).unwrap(), *model);
}

#[test]
fn an_audit_is_of_every_request() {
    let model = &compiled(&with(r#"decisions.audit = "required""#)).models[0];
    assert_eq!(model.decisions.audit, Audit::Required);
    let error = refused(r#"decisions = { audit = "required", sample = "10%" }"#);
    assert!(error.contains("an audit leaves nothing out"), "{error}");
    assert!(error.contains("remove `sample`"), "{error}");
}

#[test]
fn what_is_no_policy_is_refused_where_it_stands() {
    for (lines, part) in [
        (r#"policy.stale = "sevre""#, "did you mean `serve`?"),
        (
            r#"policy.stale = "churn@1""#,
            "an earlier version of this model: fraud@1",
        ),
        (r#"policy.changed = "default""#, "a changed feature has no default"),
        (r#"policy.lookup = "20""#, "`20` is no time for a lookup"),
        (r#"policy.slow = "serve""#, "has no key `slow`"),
        (r#"decisions.sample = "110%""#, "no share of the decisions"),
        (r#"decisions.audit = "always""#, "`always` is no audit"),
    ] {
        let error = refused(lines);
        assert!(error.contains(part), "{lines}: {error}");
    }
}
