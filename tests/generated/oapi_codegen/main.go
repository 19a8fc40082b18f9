// The flow with the client of oapi-codegen.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"flow/guests"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func require[T any](value *T, body []byte) T {
	if value == nil {
		panic(string(body))
	}
	return *value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ref[T any](value T) *T { return &value }

func main() {
	ctx := context.Background()
	withKey := func(_ context.Context, request *http.Request) error {
		request.Header.Set("X-API-Key", os.Getenv("GUESTS_API_KEY"))
		return nil
	}
	client := must(guests.NewClientWithResponses(os.Getenv("GUESTS_URL"), guests.WithRequestEditorFn(withKey)))
	verify := func(token string) guests.Verdict {
		answer := must(client.VerifyWithResponse(ctx, guests.VerifyRequest{Token: token}))
		return require(answer.JSON200, answer.Body)
	}

	cart := guests.Payload{"cart": []any{map[string]any{"sku": "tea", "qty": 2}}}
	issue := must(client.IssueWithResponse(ctx, &guests.IssueParams{}, guests.IssueRequest{Payload: &cart}))
	issued := require(issue.JSON201, issue.Body)
	mergePatch := must(client.RefreshPayloadWithResponse(ctx, guests.RefreshRequest{
		Token: issued.Token, MergePatch: &guests.JsonObject{"currency": "EUR"},
	}))
	mergePatched := require(mergePatch.JSON200, mergePatch.Body)
	jsonPatch := must(client.RefreshPayloadWithResponse(ctx, guests.RefreshRequest{
		Token: mergePatched.Token,
		JsonPatch: &guests.JsonPatch{
			{Op: guests.Test, Path: "/cart/0/qty", Value: ref[guests.Json](2)},
			{Op: guests.Replace, Path: "/cart/0/qty", Value: ref[guests.Json](3)},
		},
	}))
	jsonPatched := require(jsonPatch.JSON200, jsonPatch.Body)
	good := must(verify(jsonPatched.Token).AsGoodVerdict())
	bad := must(verify("not a token").AsBadVerdict())

	var quantity, byKey, theirs guests.Rule
	var key guests.MergeRule_Key
	var policy guests.PolicyOrName
	check(quantity.FromMergeRule(guests.MergeRule{Rule: guests.MergeRuleNameSum, Ceiling: ref(99.0)}))
	check(key.FromMergeRuleKey0("sku"))
	check(byKey.FromMergeRule(guests.MergeRule{
		Rule: guests.MergeRuleNameByKey, Key: &key, Fields: &guests.Rules{"/qty": quantity},
	}))
	check(theirs.FromMergeRuleName(guests.MergeRuleNameSession))
	check(policy.FromPolicy(guests.Policy{Rules: &guests.Rules{"/cart": byKey, "/currency": theirs}}))
	merge := must(client.MergeWithResponse(ctx, guests.MergeRequest{
		Tokens: []*string{&jsonPatched.Token, ref("not a token")},
		Session: &guests.JsonObject{
			"cart":     []any{map[string]any{"sku": "tea", "qty": 98}, map[string]any{"sku": "mug", "qty": 1}},
			"currency": "USD",
		},
		Policy: &policy,
	}))
	merged := require(merge.JSON200, merge.Body)

	refusal := must(client.IssueWithResponse(ctx, &guests.IssueParams{}, guests.IssueRequest{
		Claims: &guests.FurtherClaims{"exp": 1},
	}))
	refused := require(refusal.ApplicationproblemJSON422, refusal.Body)
	jwks := must(client.JwksWithResponse(ctx, &guests.JwksParams{}))

	skipped, conflicts, paths, published := []any{}, []any{}, []any{}, false
	for _, each := range merged.Skipped {
		skipped = append(skipped, map[string]any{"index": each.Index, "reason": each.Reason})
	}
	for _, each := range merged.Conflicts {
		conflicts = append(conflicts, map[string]any{"path": each.Path, "kept": each.Kept, "rule": each.Rule})
	}
	for _, each := range *refused.Errors {
		paths = append(paths, each.Path)
	}
	for _, each := range require(jwks.JSON200, jwks.Body).Keys {
		published = published || each.Kid == issued.KeyId
	}
	check(os.WriteFile(os.Getenv("GUESTS_REPORT"), must(json.Marshal(map[string]any{
		"issued":        map[string]any{"version": issued.Version, "expires_in": issued.ExpiresIn, "payload": issued.Payload},
		"merge_patched": map[string]any{"version": mergePatched.Version, "payload": mergePatched.Payload},
		"json_patched":  map[string]any{"version": jsonPatched.Version, "payload": jsonPatched.Payload},
		"good":          map[string]any{"version": good.Version, "payload": good.Payload, "refresh_due": good.RefreshDue},
		"bad":           bad.Reason,
		"merged": map[string]any{
			"payload": merged.Payload, "skipped": skipped, "conflicts": conflicts, "next_version": merged.Next.Version,
		},
		"problem":                  map[string]any{"status": refused.Status, "code": refused.Code, "paths": paths},
		"signing_key_is_published": published,
	})), 0o600))
	fmt.Println("done")
}
