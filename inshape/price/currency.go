package price

import "strings"

// Currency is an ISO 4217 code, as EUR.
type Currency string

// The codes of ISO 4217 (as of 2026) by their number of minor digits; funds,
// metals and codes for testing are not currencies one can be billed in.
const (
	without = " BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF "
	two     = " AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP" +
		" CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR" +
		" JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN" +
		" NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP" +
		" SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UZS VED VES WST XCD XCG YER ZAR ZMW ZWG "
	three = " BHD IQD JOD KWD LYD OMR TND "
)

// Digits is how many decimals the currency's amounts have; ok is false for a
// code that is none of ISO 4217's.
func (c Currency) Digits() (digits int, ok bool) {
	if len(c) != 3 || strings.Contains(string(c), " ") {
		return 0, false
	}
	code := " " + string(c) + " "
	switch {
	case strings.Contains(two, code):
		return 2, true
	case strings.Contains(without, code):
		return 0, true
	case strings.Contains(three, code):
		return 3, true
	}
	return 0, false
}
