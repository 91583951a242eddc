package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// ParseEnv reads a config struct from the environment. The error, a *UsageError, names every missing and every malformed
// variable at once. A config, or a struct within it, that has a Validate method is asked what else is wrong.
//
// A field of type seal.Secret, or with the tag file:"yes", is a secret: NAME_FILE may name a file that holds the value of NAME.
func ParseEnv[T any](environ map[string]string) (T, error) {
	environ, problems := readFiles(environ, SecretVariables(reflect.TypeFor[T]()))
	config, err := env.ParseAsWithOptions[T](env.Options{Environment: environ})
	if aggregate, ok := errors.AsType[env.AggregateError](err); ok {
		for _, e := range aggregate.Errors {
			if problem := explain(reflect.TypeFor[T](), e); !mentioned(problems, problem) {
				problems = append(problems, problem)
			}
		}
	} else if err != nil {
		problems = append(problems, err.Error())
	}
	for _, problem := range validate(reflect.ValueOf(&config).Elem()) {
		if !mentioned(problems, problem) {
			problems = append(problems, problem)
		}
	}
	if len(problems) > 0 {
		return config, &UsageError{fmt.Errorf("the environment is not complete:\n  %s", strings.Join(problems, "\n  "))}
	}
	return config, nil
}

// explain says what is wrong with which variable, never its value: it may be a secret.
func explain(config reflect.Type, err error) string {
	if e, ok := errors.AsType[env.VarIsNotSetError](err); ok {
		return e.Key + ": required, not set"
	}
	if e, ok := errors.AsType[env.EmptyVarError](err); ok {
		return e.Key + ": required, empty"
	}
	if e, ok := errors.AsType[env.ParseError](err); ok {
		return fmt.Sprintf("%s: not a %s", variable(config, e.Name), typeName(e.Type))
	}
	return err.Error()
}

func typeName(t reflect.Type) string {
	switch {
	case t.String() == "time.Duration":
		return "duration such as 10s"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "whole number"
	}
	return t.String()
}

// variable finds the name of the variable that fills a field.
func variable(t reflect.Type, field string) string {
	for f := range t.Fields() {
		if f.Name == field && f.Tag.Get("env") != "" {
			name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
			return name
		}
		if f.Type.Kind() == reflect.Struct {
			if name := variable(f.Type, field); name != field {
				return name
			}
		}
	}
	return field
}

// validate collects the complaints of v and of the structs in it, each once: a Validate may be promoted from an embedded struct.
func validate(v reflect.Value) []string {
	var problems []string
	if checked, ok := reflect.TypeAssert[interface{ Validate() error }](v.Addr()); ok {
		if err := checked.Validate(); err != nil {
			problems = append(problems, strings.Split(err.Error(), "\n")...)
		}
	}
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Struct && v.Type().Field(i).IsExported() {
			for _, problem := range validate(v.Field(i)) {
				if !slices.Contains(problems, problem) {
					problems = append(problems, problem)
				}
			}
		}
	}
	return problems
}

// mentioned reports whether the variable that the problem starts with has been complained about, or the one that names its file.
func mentioned(problems []string, problem string) bool {
	name, _, _ := strings.Cut(problem, ":")
	for _, p := range problems {
		if strings.HasPrefix(p, name+":") || strings.HasPrefix(p, name+fileSuffix+":") {
			return true
		}
	}
	return false
}
