// A guest token exchanged by golang.org/x/oauth2, and verified by go-oidc and go-jose; see test_token_exchange.py.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

type metadata struct {
	GrantTypes []string `json:"grant_types_supported"`
}

type exchanger struct {
	tokenURL, grantType string
}

func (e exchanger) exchange(subjectToken, secret string, parameters url.Values) (*oauth2.Token, error) {
	form := url.Values{
		"grant_type":         {e.grantType},
		"subject_token":      {subjectToken},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
	}
	for name, values := range parameters {
		form[name] = values
	}
	config := clientcredentials.Config{
		ClientID: "shop", ClientSecret: secret, TokenURL: e.tokenURL, EndpointParams: form,
	}
	return config.Token(context.Background())
}

func (e exchanger) errorOf(subjectToken, secret string, parameters url.Values) string {
	_, err := e.exchange(subjectToken, secret, parameters)
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		return refused.ErrorCode
	}
	return "none"
}

func main() {
	ctx := context.Background()
	guestToken, secret := os.Getenv("GUEST_TOKEN"), os.Getenv("CLIENT_SECRET")
	provider, err := oidc.NewProvider(ctx, os.Getenv("ISSUER"))
	check(err)
	var supported metadata
	check(provider.Claims(&supported))
	client := exchanger{provider.Endpoint().TokenURL, supported.GrantTypes[0]}
	search := url.Values{"audience": {"search"}}

	token, err := client.exchange(guestToken, secret, url.Values{"audience": {"search"}, "scope": {"payload"}})
	check(err)
	verified, err := provider.Verifier(&oidc.Config{ClientID: "search"}).Verify(ctx, token.AccessToken)
	check(err)
	var claims struct {
		Payload json.RawMessage `json:"payload"`
	}
	check(verified.Claims(&claims))
	parsed, err := jose.ParseSigned(token.AccessToken, []jose.SignatureAlgorithm{jose.ES256})
	check(err)

	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"token_type":        strings.ToLower(token.TokenType),
		"issued_token_type": token.Extra("issued_token_type"),
		"expires_in":        token.Extra("expires_in"),
		"typ":               parsed.Signatures[0].Protected.ExtraHeaders["typ"],
		"subject":           verified.Subject,
		"payload":           claims.Payload,
		"errors": map[string]string{
			"an access token for a guest token": client.errorOf(token.AccessToken, secret, search),
			"no audience":                       client.errorOf(guestToken, secret, nil),
			"another scope":                     client.errorOf(guestToken, secret, url.Values{"audience": {"search"}, "scope": {"openid"}}),
			"a wrong secret":                    client.errorOf(guestToken, "wwwwwwwwwwwwwwwwwwww", search),
		},
	}))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
