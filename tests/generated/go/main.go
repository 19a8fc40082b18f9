// The flow with the Go client of openapi-generator.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"

	guests "example.com/guests/client"
)

func must[T any](value T, _ *http.Response, err error) T {
	if err != nil {
		var answer *guests.GenericOpenAPIError
		if errors.As(err, &answer) {
			panic(string(answer.Body()))
		}
		panic(err)
	}
	return value
}

func ref[T any](value T) *T { return &value }

func main() {
	configuration := guests.NewConfiguration()
	configuration.Servers = guests.ServerConfigurations{{URL: os.Getenv("GUESTS_URL")}}
	ctx := context.WithValue(context.Background(), guests.ContextAPIKeys, map[string]guests.APIKey{
		"apiKeyHeader": {Key: os.Getenv("GUESTS_API_KEY")},
	})
	client := guests.NewAPIClient(configuration)
	api := client.GuestsAPI

	cart := map[string]any{"cart": []any{map[string]any{"sku": "tea", "qty": 2}}}
	issued := must(api.Issue(ctx).IssueRequest(guests.IssueRequest{Payload: cart}).Execute())
	// As a generated constructor fills it in, so that defaults nobody asked for would be sent.
	change := guests.NewRefreshRequestWithDefaults()
	change.SetToken(issued.Token)
	change.SetMergePatch(map[string]any{"currency": "EUR"})
	mergePatched := must(api.RefreshPayload(ctx).RefreshRequest(*change).Execute())
	jsonPatched := must(api.RefreshPayload(ctx).RefreshRequest(guests.RefreshRequest{
		Token: mergePatched.Token,
		JsonPatch: []guests.JsonPatchOperation{
			{Op: "test", Path: "/cart/0/qty", Value: 2},
			{Op: "replace", Path: "/cart/0/qty", Value: 3},
		},
	}).Execute())
	good := must(api.Verify(ctx).VerifyRequest(guests.VerifyRequest{Token: jsonPatched.Token}).Execute()).GoodVerdict
	bad := must(api.Verify(ctx).VerifyRequest(guests.VerifyRequest{Token: "not a token"}).Execute()).BadVerdict

	quantity := guests.MergeRule{Rule: guests.SUM, Ceiling: ref(99.0)}
	byKey := guests.MergeRule{
		Rule:   guests.BY_KEY,
		Key:    &guests.MergeRuleKey{String: ref("sku")},
		Fields: map[string]guests.Rule{"/qty": guests.MergeRuleAsRule(&quantity)},
	}
	theirs := guests.MergeRuleNameAsRule(guests.SESSION.Ptr())
	merged := must(api.Merge(ctx).MergeRequest(guests.MergeRequest{
		Tokens: []*string{&jsonPatched.Token, ref("not a token")},
		Session: map[string]any{
			"cart":     []any{map[string]any{"sku": "tea", "qty": 98}, map[string]any{"sku": "mug", "qty": 1}},
			"currency": "USD",
		},
		Policy: &guests.PolicyOrName{Policy: &guests.Policy{
			Rules: map[string]guests.Rule{"/cart": guests.MergeRuleAsRule(&byKey), "/currency": theirs},
		}},
	}).Execute())

	_, _, err := api.Issue(ctx).IssueRequest(guests.IssueRequest{Claims: map[string]any{"exp": 1}}).Execute()
	var refusal *guests.GenericOpenAPIError
	if !errors.As(err, &refusal) {
		panic(err)
	}
	refused := refusal.Model().(guests.Problem)
	jwks := must(client.VerifiersAPI.Jwks(ctx).Execute())

	skipped, conflicts, paths, published := []any{}, []any{}, []any{}, false
	for _, each := range merged.Skipped {
		skipped = append(skipped, map[string]any{"index": each.Index, "reason": each.Reason})
	}
	for _, each := range merged.Conflicts {
		conflicts = append(conflicts, map[string]any{"path": each.Path, "kept": each.Kept, "rule": each.Rule})
	}
	for _, each := range refused.Errors {
		paths = append(paths, each.Path)
	}
	for _, each := range jwks.Keys {
		published = published || each.Kid == issued.KeyId
	}
	report, err := json.Marshal(map[string]any{
		"issued":        map[string]any{"version": issued.Version, "expires_in": issued.ExpiresIn, "payload": issued.Payload},
		"merge_patched": map[string]any{"version": mergePatched.Version, "payload": mergePatched.Payload},
		"json_patched":  map[string]any{"version": jsonPatched.Version, "payload": jsonPatched.Payload},
		"good":          map[string]any{"version": good.Version, "payload": good.Payload, "refresh_due": good.RefreshDue},
		"bad":           bad.Reason,
		"merged": map[string]any{
			"payload": merged.Payload, "skipped": skipped, "conflicts": conflicts, "next_version": merged.Next.Get().Version,
		},
		"problem":                  map[string]any{"status": refused.Status, "code": refused.Code, "paths": paths},
		"signing_key_is_published": published,
	})
	if err == nil {
		err = os.WriteFile(os.Getenv("GUESTS_REPORT"), report, 0o600)
	}
	if err != nil {
		panic(err)
	}
}
