"""The flow with the client of openapi-python-client."""

import json
import os
from pathlib import Path

from guest_sessions_client import AuthenticatedClient
from guest_sessions_client.api.guests import issue, merge, refresh_payload, verify
from guest_sessions_client.api.verifiers import jwks
from guest_sessions_client.models import (
    BadVerdict,
    FurtherClaims,
    GoodVerdict,
    IssueRequest,
    JsonObject,
    JsonPatchOperation,
    JsonPatchOperationOp,
    JwkSet,
    MergeRequest,
    MergeResult,
    MergeRule,
    MergeRuleName,
    Payload,
    Policy,
    Problem,
    RefreshRequest,
    Rules,
    TokenObject,
    VerifyRequest,
)

client = AuthenticatedClient(
    base_url=os.environ["GUESTS_URL"],
    token=os.environ["GUESTS_API_KEY"],
    auth_header_name="X-API-Key",
    prefix="",
)

issued = issue.sync(client=client, body=IssueRequest(payload=Payload.from_dict({"cart": [{"sku": "tea", "qty": 2}]})))
assert isinstance(issued, TokenObject)
merge_patched = refresh_payload.sync(
    client=client, body=RefreshRequest(token=issued.token, merge_patch=JsonObject.from_dict({"currency": "EUR"}))
)
assert isinstance(merge_patched, TokenObject)
json_patched = refresh_payload.sync(
    client=client,
    body=RefreshRequest(
        token=merge_patched.token,
        json_patch=[
            JsonPatchOperation(op=JsonPatchOperationOp.TEST, path="/cart/0/qty", value=2),
            JsonPatchOperation(op=JsonPatchOperationOp.REPLACE, path="/cart/0/qty", value=3),
        ],
    ),
)
assert isinstance(json_patched, TokenObject)
good = verify.sync(client=client, body=VerifyRequest(token=json_patched.token))
assert isinstance(good, GoodVerdict)
bad = verify.sync(client=client, body=VerifyRequest(token="not a token"))
assert isinstance(bad, BadVerdict)
quantities = Rules()
quantities["/qty"] = MergeRule(rule=MergeRuleName.SUM, ceiling=99)
rules = Rules()
rules["/cart"] = MergeRule(rule=MergeRuleName.BY_KEY, key="sku", fields=quantities)
rules["/currency"] = MergeRuleName.SESSION
merged = merge.sync(
    client=client,
    body=MergeRequest(
        tokens=[json_patched.token, "not a token"],
        session=JsonObject.from_dict(
            {"cart": [{"sku": "tea", "qty": 98}, {"sku": "mug", "qty": 1}], "currency": "USD"}
        ),
        policy=Policy(rules=rules),
    ),
)
assert isinstance(merged, MergeResult)
assert isinstance(merged.next_, TokenObject)
refused = issue.sync(client=client, body=IssueRequest(claims=FurtherClaims.from_dict({"exp": 1})))
assert isinstance(refused, Problem)
assert isinstance(refused.errors, list)
published = jwks.sync(client=client)
assert isinstance(published, JwkSet)

report = {
    "issued": {"version": issued.version, "expires_in": issued.expires_in, "payload": issued.payload.to_dict()},
    "merge_patched": {"version": merge_patched.version, "payload": merge_patched.payload.to_dict()},
    "json_patched": {"version": json_patched.version, "payload": json_patched.payload.to_dict()},
    "good": {"version": good.version, "payload": good.payload.to_dict(), "refresh_due": good.refresh_due},
    "bad": bad.reason,
    "merged": {
        "payload": merged.payload.to_dict(),
        "skipped": [{"index": each.index, "reason": each.reason} for each in merged.skipped],
        "conflicts": [{"path": each.path, "kept": each.kept, "rule": each.rule} for each in merged.conflicts],
        "next_version": merged.next_.version,
    },
    "problem": {
        "status": refused.status,
        "code": refused.code,
        "paths": [each.path for each in refused.errors],
    },
    "signing_key_is_published": issued.key_id in [each.kid for each in published.keys],
}
Path(os.environ["GUESTS_REPORT"]).write_text(json.dumps(report))
