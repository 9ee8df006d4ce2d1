package mesh

import (
	"errors"
	"math"
	"strconv"
)

var (
	errNumberMissing = errors.New("a number is missing")
	errNotNumber     = errors.New("not a number")
)

func space(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f'
}

// nextField splits the first word of b off.
func nextField(b []byte) (field, rest []byte) {
	i := 0
	for i < len(b) && space(b[i]) {
		i++
	}
	j := i
	for j < len(b) && !space(b[j]) {
		j++
	}
	return b[i:j], b[j:]
}

// point reads three numbers and gives what follows them.
func point(b []byte) (p Vec, rest []byte, err error) {
	for k := range p {
		var word []byte
		word, b = nextField(b)
		if len(word) == 0 {
			return p, b, errNumberMissing
		}
		if p[k], err = number(word); err != nil {
			return p, b, err
		}
	}
	return p, b, nil
}

// number reads a decimal number, exactly: short ones by Clinger's fast path
// (How to read floating point numbers accurately, 1990: a mantissa below 2⁵³
// and a power of ten up to 10²² give a correctly rounded quotient), the others
// by strconv. Numbers too large for a float64 become infinite.
func number(b []byte) (float64, error) {
	i, negative := 0, false
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		negative = b[i] == '-'
		i++
	}
	var mantissa uint64
	digits, scale, point := 0, 0, false
	for ; i < len(b); i++ {
		c := b[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		if digits++; digits > 15 {
			return slowNumber(b)
		}
		mantissa = mantissa*10 + uint64(c-'0')
		if point {
			scale--
		}
	}
	if digits == 0 {
		return slowNumber(b)
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		e, err := strconv.Atoi(string(b[i+1:]))
		if err != nil {
			return slowNumber(b)
		}
		scale += e
		i = len(b)
	}
	if i != len(b) || scale < -22 || scale > 22 {
		return slowNumber(b)
	}
	x := float64(mantissa)
	if scale < 0 {
		x /= powersOfTen(-scale)
	} else {
		x *= powersOfTen(scale)
	}
	if negative {
		x = -x
	}
	return x, nil
}

func powersOfTen(n int) float64 {
	return [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}[n]
}

func slowNumber(b []byte) (float64, error) {
	if len(b) > 400 {
		return 0, errNotNumber
	}
	for _, c := range b { // strconv also takes hexadecimal numbers and underscores
		if c == '_' || c == 'x' || c == 'X' {
			return 0, errNotNumber
		}
	}
	x, err := strconv.ParseFloat(string(b), 64)
	if err != nil && !math.IsInf(x, 0) {
		return 0, errNotNumber
	}
	return x, nil
}
