//! The flow with the Rust client of openapi-generator.

use std::collections::HashMap;
use std::env::var;

use guests::apis::configuration::{ApiKey, Configuration};
use guests::apis::guests_api::{issue, merge, refresh_payload, verify, IssueError};
use guests::apis::verifiers_api::jwks;
use guests::apis::Error;
use guests::models::json_patch_operation::Op;
use guests::models::{
    IssueRequest, JsonPatchOperation, MergeRequest, MergeRule, MergeRuleKey, MergeRuleName, Policy, PolicyOrName,
    RefreshRequest, Rule, Verdict, VerifyRequest,
};
use serde_json::{json, Value};

fn object(value: Value) -> Option<HashMap<String, Value>> {
    serde_json::from_value(value).ok()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut api = Configuration::new();
    api.base_path = var("GUESTS_URL")?;
    api.api_key = Some(ApiKey { prefix: None, key: var("GUESTS_API_KEY")? });

    let mut first = IssueRequest::new();
    first.payload = object(json!({"cart": [{"sku": "tea", "qty": 2}]}));
    let issued = issue(&api, None, Some(first)).await?;
    let mut change = RefreshRequest::new(issued.token.clone());
    change.merge_patch = object(json!({"currency": "EUR"}));
    let merge_patched = refresh_payload(&api, change).await?;
    let mut test = JsonPatchOperation::new(Op::Test, "/cart/0/qty".into());
    test.value = Some(Some(json!(2)));
    let mut replace = JsonPatchOperation::new(Op::Replace, "/cart/0/qty".into());
    replace.value = Some(Some(json!(3)));
    let mut change = RefreshRequest::new(merge_patched.token.clone());
    change.json_patch = Some(vec![test, replace]);
    let json_patched = refresh_payload(&api, change).await?;
    let Verdict::GoodVerdict(good) = verify(&api, VerifyRequest::new(json_patched.token.clone())).await? else {
        panic!("a good token was refused");
    };
    let Verdict::BadVerdict(bad) = verify(&api, VerifyRequest::new("not a token".into())).await? else {
        panic!("a bad token was taken");
    };

    let mut quantity = MergeRule::new(MergeRuleName::Sum);
    quantity.ceiling = Some(99.0);
    let mut by_key = MergeRule::new(MergeRuleName::ByKey);
    by_key.key = Some(Box::new(MergeRuleKey::String("sku".into())));
    by_key.fields = Some(HashMap::from([("/qty".into(), Rule::MergeRule(Box::new(quantity)))]));
    let mut policy = Policy::new();
    policy.rules = Some(HashMap::from([
        ("/cart".into(), Rule::MergeRule(Box::new(by_key))),
        ("/currency".into(), Rule::MergeRuleName(MergeRuleName::Session)),
    ]));
    let mut handover = MergeRequest::new(vec![json_patched.token.clone(), "not a token".into()]);
    handover.session =
        Some(object(json!({"cart": [{"sku": "tea", "qty": 98}, {"sku": "mug", "qty": 1}], "currency": "USD"})));
    handover.policy = Some(Box::new(PolicyOrName::Policy(Box::new(policy))));
    let merged = merge(&api, handover).await?;

    let mut wrong = IssueRequest::new();
    wrong.claims = object(json!({"exp": 1}));
    let Err(Error::ResponseError(refusal)) = issue(&api, None, Some(wrong)).await else {
        panic!("it was not refused");
    };
    // Every status has the same schema, so that serde takes the first variant.
    let Some(IssueError::Status400(refused)) = refusal.entity else {
        panic!("the problem was not understood: {}", refusal.content);
    };
    let published = jwks(&api, None).await?;

    let report = json!({
        "issued": {"version": issued.version, "expires_in": issued.expires_in, "payload": issued.payload},
        "merge_patched": {"version": merge_patched.version, "payload": merge_patched.payload},
        "json_patched": {"version": json_patched.version, "payload": json_patched.payload},
        "good": {"version": good.version, "payload": good.payload, "refresh_due": good.refresh_due},
        "bad": bad.reason,
        "merged": {
            "payload": merged.payload,
            "skipped": merged.skipped.iter().map(|each| json!({"index": each.index, "reason": each.reason})).collect::<Vec<_>>(),
            "conflicts": merged.conflicts.iter()
                .map(|each| json!({"path": each.path, "kept": each.kept, "rule": each.rule})).collect::<Vec<_>>(),
            "next_version": merged.next.map(|next| next.version),
        },
        "problem": {
            "status": refused.status,
            "code": refused.code,
            "paths": refused.errors.iter().flatten().map(|each| each.path.clone()).collect::<Vec<_>>(),
        },
        "signing_key_is_published": published.keys.iter().any(|key| key.kid == issued.key_id),
    });
    Ok(std::fs::write(var("GUESTS_REPORT")?, report.to_string())?)
}
