// Checks Prometheus files by Prometheus' own code: rule files as promtool does, and expressions, one a line, from standard input.
package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	promql := parser.NewParser(parser.Options{})
	failed := false
	complain := func(where string, err error) {
		failed = true
		fmt.Fprintf(os.Stderr, "%s: %v\n", where, err)
	}
	for _, name := range os.Args[1:] {
		if _, errs := rulefmt.ParseFile(name, false, model.UTF8Validation, promql, slog.Default()); len(errs) > 0 {
			for _, err := range errs {
				complain(name, err)
			}
		}
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := promql.ParseExpr(lines.Text()); err != nil {
			complain(lines.Text(), err)
		}
	}
	if failed {
		os.Exit(1)
	}
}
