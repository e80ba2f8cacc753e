// Package page reads the blocks of a page of documentation, so that a test can
// do what the page says. Behind the language of a block may stand words that no
// reader sees: which machine it is for, and what is special about it.
package page

import (
	"regexp"
	"slices"
	"strings"
)

// A Block is what stands between two fences.
type Block struct {
	Line  int // of the page, where it begins
	Lang  string
	Words []string // behind the language
	Text  string
	Want  []string // lines of the block marked text that follows it
}

// Blocks returns the blocks of a page. One that is marked text and nothing
// else belongs to the one that ends in the line before it.
func Blocks(page string) []Block {
	var list []Block
	var body []string
	open, begun, ended := "", 0, 0
	for i, line := range strings.Split(page, "\n") {
		mark, fence := strings.CutPrefix(line, "```")
		switch {
		case !fence:
			body = append(body, line)
		case begun == 0:
			open, begun, body = mark, i+1, nil
		default:
			if last := len(list) - 1; open == "text" && last >= 0 && ended == begun-1 {
				list[last].Want = body
			} else {
				words := append(strings.Fields(open), "")
				list = append(list, Block{Line: begun, Lang: words[0], Words: words[1:], Text: strings.Join(body, "\n")})
			}
			begun, ended = 0, i+1
		}
	}
	return list
}

// Has reports whether a word stands behind the language.
func (b Block) Has(word string) bool { return slices.Contains(b.Words, word) }

// Missing returns the first wanted line that the output does not have. An
// ellipsis is any text. Each line of the output counts once; their order does
// not.
func Missing(output string, want []string) string {
	lines := strings.Split(output, "\n")
	for _, w := range want {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(w), "…", ".*")
		pattern = "^" + strings.Join(strings.Fields(pattern), `\s+`) + `\s*$`
		found := false
		for i, line := range lines {
			if matched, err := regexp.MatchString(pattern, line); err == nil && matched {
				lines[i], found = "\x00", true
				break
			}
		}
		if !found {
			return w
		}
	}
	return ""
}
