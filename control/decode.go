package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// decode reads the body of a request, which is one JSON object with known fields and
// nothing behind it. No body is an object without fields.
func decode(body []byte, into any) error {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return nil
	}
	if body[0] != '{' {
		return wrongBody("the body must be a JSON object", into)
	}
	in := json.NewDecoder(bytes.NewReader(body))
	in.DisallowUnknownFields()
	if err := in.Decode(into); err != nil {
		return explain(err, into)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return wrongBody("there is more behind the JSON object", into)
	}
	return nil
}

func explain(err error, into any) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType):
		return wrongBody(fmt.Sprintf("%s must be %s, not a %s", wrongType.Field, inJSON(wrongType.Type.Kind()), wrongType.Value), into)
	case errors.As(err, &syntax):
		return wrongBody(fmt.Sprintf("the body is not JSON: %v, at byte %d", err, syntax.Offset), into)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return wrongBody("the body is not JSON: it ends too early", into)
	}
	return wrongBody(strings.TrimPrefix(err.Error(), "json: "), into)
}

// inJSON is what a kind of Go is to those who write JSON.
func inJSON(k reflect.Kind) string {
	switch k { //nolint:exhaustive // requests have no others
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.String:
		return "a string"
	}
	return k.String()
}

// wrongBody says what would be right.
func wrongBody(message string, into any) error {
	fields := fieldsOf(reflect.TypeOf(into).Elem())
	hint := "no fields are known here: {}"
	if len(fields) > 0 {
		hint = "known fields: " + strings.Join(fields, ", ")
	}
	return &Error{Kind: Usage, Message: message, Hint: hint}
}

// fieldsOf are the names that a struct has in JSON.
func fieldsOf(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}
