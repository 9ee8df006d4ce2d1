package orders

import (
	"fmt"
	"slices"
)

// State is where an order or a line is in its life.
type State string

// The states, in the order of a life that goes well. A line knows only those
// from Waiting on that its counters tell.
const (
	Placed       State = "placed"        // of an order: it waits for the shop's word
	Confirmed    State = "confirmed"     // of an order: the shop will make it
	Waiting      State = "waiting"       // of a line: nothing has begun
	InProduction State = "in-production" // something has begun
	Made         State = "made"          // every piece is made
	Shipped      State = "shipped"       // every piece has left
	Delivered    State = "delivered"     // every piece has arrived
	Cancelled    State = "cancelled"     // will not be made
)

// OrderStates are the states that an order can be in.
var OrderStates = []State{Placed, Confirmed, InProduction, Made, Shipped, Delivered, Cancelled}

var lineRank = []State{Waiting, InProduction, Made, Shipped, Delivered}

// maxScrapped bounds the failures of a line.
const maxScrapped = 1_000_000

// Progress counts the pieces of a line. Delivered <= Shipped <= Made <= Quantity.
type Progress struct {
	Quantity  int  `json:"quantity" minimum:"1" maximum:"100000"`
	Started   bool `json:"started"`
	Made      int  `json:"made" doc:"Good pieces"`
	Scrapped  int  `json:"scrapped" doc:"Pieces that failed and were, or are to be, made again"`
	Shipped   int  `json:"shipped"`
	Delivered int  `json:"delivered"`
	Cancelled bool `json:"cancelled"`
}

// State is what the counters say.
func (p Progress) State() State {
	switch {
	case p.Cancelled:
		return Cancelled
	case p.Delivered == p.Quantity:
		return Delivered
	case p.Shipped == p.Quantity:
		return Shipped
	case p.Made == p.Quantity:
		return Made
	case p.Started || p.Made > 0:
		return InProduction
	}
	return Waiting
}

// Kind is what can happen to a line.
type Kind string

// The kinds of line events.
const (
	Start   Kind = "started"   // making has begun
	Make    Kind = "made"      // so many good pieces more
	Scrap   Kind = "scrapped"  // so many pieces failed; they are made again
	Ship    Kind = "shipped"   // so many pieces more have left
	Deliver Kind = "delivered" // so many pieces more have arrived
	Cancel  Kind = "cancelled" // the line will not be made
)

// Counts tells whether the event is about a number of pieces.
func (k Kind) Counts() bool { return k != Start && k != Cancel }

// Apply gives the counters after an event, or why it cannot be.
func (p Progress) Apply(kind Kind, quantity int) (Progress, string) {
	if p.Cancelled {
		return p, "the line is cancelled"
	}
	if kind.Counts() && quantity < 1 {
		return p, "a quantity of at least 1 is needed"
	}
	switch kind {
	case Start:
		p.Started = true
	case Make:
		if quantity > p.Quantity-p.Made {
			return p, sayLeft(quantity, p.Quantity-p.Made, "to be made")
		}
		p.Started, p.Made = true, p.Made+quantity
	case Scrap:
		// Only what is not made yet can fail; it may fail more than once.
		if quantity > p.Quantity-p.Made {
			return p, sayLeft(quantity, p.Quantity-p.Made, "to be made")
		}
		if p.Scrapped > maxScrapped-quantity {
			return p, fmt.Sprintf("%d pieces have failed already; cancel the line", p.Scrapped)
		}
		p.Started, p.Scrapped = true, p.Scrapped+quantity
	case Ship:
		if quantity > p.Made-p.Shipped {
			return p, sayLeft(quantity, p.Made-p.Shipped, "made and not yet shipped")
		}
		p.Shipped += quantity
	case Deliver:
		if quantity > p.Shipped-p.Delivered {
			return p, sayLeft(quantity, p.Shipped-p.Delivered, "under way")
		}
		p.Delivered += quantity
	case Cancel:
		if p.Shipped > 0 {
			return p, "pieces of it have been shipped"
		}
		p.Cancelled = true
	default:
		return p, "there is no such event"
	}
	return p, ""
}

// OrderState is an order's state: what was decided (placed, confirmed or
// cancelled), and behind confirmed what its lines say. Cancelled lines do not
// count; an order that has no others is cancelled.
func OrderState(stage State, lines []Progress) State {
	if stage == Cancelled {
		return stage
	}
	least, most := len(lineRank), -1
	for _, l := range lines {
		if rank := slices.Index(lineRank, l.State()); rank >= 0 {
			least, most = min(least, rank), max(most, rank)
		}
	}
	switch {
	case most < 0:
		return Cancelled
	case stage != Confirmed:
		return stage
	case least >= slices.Index(lineRank, Made):
		return lineRank[least]
	case most >= slices.Index(lineRank, InProduction):
		return InProduction
	}
	return Confirmed
}

func sayLeft(quantity, left int, what string) string {
	verb := "are"
	if quantity == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%d %s more than the %d %s", quantity, verb, left, what)
}
