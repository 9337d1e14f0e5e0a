package main

import (
	"reflect"
	"strings"
)

// What superd tells has words of its children in it: how they ended, what they say of
// themselves. Those who run superctl are often root, and a terminal obeys what it is sent.

// harmless is v with no text in it that a terminal would obey. Lines stay lines, and v
// stays as it is.
func harmless[T any](v T) T {
	into := reflect.New(reflect.TypeFor[T]()).Elem()
	into.Set(tamed(reflect.ValueOf(&v).Elem()))
	return into.Interface().(T) //nolint:forcetypeassert // it was made as one
}

func tamed(v reflect.Value) reflect.Value {
	switch v.Kind() { //nolint:exhaustive // the others have no text
	case reflect.String:
		return reflect.ValueOf(tame(v.String())).Convert(v.Type())
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		into := reflect.New(v.Type().Elem())
		into.Elem().Set(tamed(v.Elem()))
		return into
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		into := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			into.Index(i).Set(tamed(v.Index(i)))
		}
		return into
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		into := reflect.MakeMap(v.Type())
		for key, value := range v.Seq2() {
			into.SetMapIndex(tamed(key), tamed(value))
		}
		return into
	case reflect.Struct:
		into := reflect.New(v.Type()).Elem()
		into.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				into.Field(i).Set(tamed(v.Field(i)))
			}
		}
		return into
	}
	return v
}

func tame(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && isCommand(r) {
			return '·'
		}
		return r
	}, text)
}

// isCommand tells whether a terminal may take r for one: of ASCII and of its extension,
// where U+009B is what ESC [ is.
func isCommand(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 }
