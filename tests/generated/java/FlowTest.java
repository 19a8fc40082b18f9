package com.example.guests;

import static org.junit.jupiter.api.Assertions.assertThrows;

import com.example.guests.api.GuestsApi;
import com.example.guests.api.VerifiersApi;
import com.example.guests.model.*;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** The flow with the Java client of openapi-generator. */
class FlowTest {
    @Test
    void aGuestLivesThroughIssueRefreshVerifyAndMerge() throws Exception {
        ApiClient client = new ApiClient();
        client.setBasePath(System.getenv("GUESTS_URL"));
        client.setApiKey(System.getenv("GUESTS_API_KEY"));
        GuestsApi api = new GuestsApi(client);

        TokenObject issued = api.issue(null, new IssueRequest().payload(members("cart", Arrays.asList(members("sku", "tea", "qty", 2)))));
        TokenObject mergePatched = api.refreshPayload(
            new RefreshRequest().token(issued.getToken()).mergePatch(members("currency", "EUR")));
        TokenObject jsonPatched = api.refreshPayload(new RefreshRequest().token(mergePatched.getToken()).jsonPatch(Arrays.asList(
            new JsonPatchOperation().op(JsonPatchOperation.OpEnum.TEST).path("/cart/0/qty").value(2),
            new JsonPatchOperation().op(JsonPatchOperation.OpEnum.REPLACE).path("/cart/0/qty").value(3))));
        GoodVerdict good = api.verify(new VerifyRequest().token(jsonPatched.getToken())).getGoodVerdict();
        BadVerdict bad = api.verify(new VerifyRequest().token("not a token")).getBadVerdict();

        Rule quantity = new Rule(new MergeRule().rule(MergeRuleName.SUM).ceiling(99.0));
        Rule byKey = new Rule(new MergeRule().rule(MergeRuleName.BY_KEY).key(new MergeRuleKey("sku"))
            .fields(Collections.singletonMap("/qty", quantity)));
        Policy policy = new Policy().putRulesItem("/cart", byKey).putRulesItem("/currency", new Rule(MergeRuleName.SESSION));
        MergeResult merged = api.merge(new MergeRequest()
            .tokens(Arrays.asList(jsonPatched.getToken(), "not a token"))
            .session(members("currency", "USD", "cart",
                Arrays.asList(members("sku", "tea", "qty", 98), members("sku", "mug", "qty", 1))))
            .policy(new PolicyOrName(policy)));

        ApiException refusal = assertThrows(ApiException.class,
            () -> api.issue(null, new IssueRequest().claims(members("exp", 1))));
        Problem refused = Problem.fromJson(refusal.getResponseBody());
        JwkSet jwks = new VerifiersApi(client).jwks(null);

        Map<String, Object> report = members(
            "issued", members("version", issued.getVersion(), "expires_in", issued.getExpiresIn(), "payload", issued.getPayload()),
            "merge_patched", members("version", mergePatched.getVersion(), "payload", mergePatched.getPayload()),
            "json_patched", members("version", jsonPatched.getVersion(), "payload", jsonPatched.getPayload()),
            "good", members("version", good.getVersion(), "payload", good.getPayload(), "refresh_due", good.getRefreshDue()),
            "bad", bad.getReason(),
            "merged", members(
                "payload", merged.getPayload(),
                "skipped", each(merged.getSkipped(), skip -> members("index", skip.getIndex(), "reason", skip.getReason())),
                "conflicts", each(merged.getConflicts(),
                    conflict -> members("path", conflict.getPath(), "kept", conflict.getKept(), "rule", conflict.getRule())),
                "next_version", merged.getNext().getVersion()),
            "problem", members("status", refused.getStatus(), "code", refused.getCode(), "paths", each(refused.getErrors(), Fault::getPath)),
            "signing_key_is_published", jwks.getKeys().stream().anyMatch(key -> key.getKid().equals(issued.getKeyId())));
        Files.write(Paths.get(System.getenv("GUESTS_REPORT")), JSON.getGson().toJson(report).getBytes("UTF-8"));
    }

    private static <T> List<Object> each(List<T> values, java.util.function.Function<T, Object> function) {
        return values.stream().map(function).collect(Collectors.toList());
    }

    private static Map<String, Object> members(Object... namesAndValues) {
        Map<String, Object> members = new LinkedHashMap<>();
        for (int i = 0; i < namesAndValues.length; i += 2) {
            members.put((String) namesAndValues[i], namesAndValues[i + 1]);
        }
        return members;
    }
}
