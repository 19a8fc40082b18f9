package guestsessions

import (
	"encoding/json"
	"fmt"
)

// Codes of an [Error] that a caller is likely to treat in a way of their own. The service has further ones, which its
// openapi.yaml lists.
const (
	CodeInvalidRequest = "invalid_request" // also where a value cannot be encoded as JSON
	CodePatchConflict  = "patch_conflict"  // a "test" of a JSON Patch failed
	CodeStaleToken     = "stale_token"     // [IfCurrent], and the service knows a newer version
	CodeTokenTooLarge  = "token_too_large" // see [Error.Bytes] and [Error.Limit]

	CodeUnavailable     = "unavailable"      // the service did not respond, or failed
	CodeUnreadableGuest = "unreadable_guest" // a guest may be there that could not be read, and is not overwritten
	CodeInvalidPayload  = "invalid_payload"  // the guest's payload does not fit its type, and is not overwritten
	CodeInvalidSession  = "invalid_session"  // the session's type loses "merged_guests", which must be stored
	CodeResponseStarted = "response_started" // a new token would not reach the visitor any more
)

// Error is the only type of error that this package returns. The guest is then as it was.
type Error struct {
	Code    string         // one of the service's codes, or of the constants of this package
	Message string         // for people
	Status  int            // of the service's response; 0 where there was none
	Bytes   int            // with CodeTokenTooLarge: the size of the token that was refused
	Limit   int            // with CodeTokenTooLarge: the greatest size
	Facts   map[string]any // all further members of the service's problem (RFC 9457), as encoding/json decodes them
	Err     error          // the cause, if it is another error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("guestsessions: %s: %s: %v", e.Code, e.Message, e.Err)
	}
	return fmt.Sprintf("guestsessions: %s: %s", e.Code, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// problemIn returns the problem (RFC 9457) in a response's body; nil where it holds none.
func problemIn(body []byte, status int) *Error {
	var known struct {
		Code   string
		Detail string
		Bytes  int
		Limit  int
	}
	facts := map[string]any{}
	if json.Unmarshal(body, &known) != nil || known.Code == "" || json.Unmarshal(body, &facts) != nil {
		return nil
	}
	for _, member := range []string{"type", "title", "status", "detail", "code"} {
		delete(facts, member)
	}
	return &Error{
		Code: known.Code, Message: known.Detail, Status: status, Bytes: known.Bytes, Limit: known.Limit, Facts: facts,
	}
}
