package orders

import "inshape/frame"

// OrderEvent is the data of the events order.*.
type OrderEvent struct {
	Order     string      `json:"order"`
	Number    int64       `json:"number"`
	State     State       `json:"state"`
	Reference string      `json:"reference,omitempty"`
	Due       string      `json:"due,omitempty"`
	Lines     []EventLine `json:"lines"`
}

// EventLine is a line as events tell of it: what whoever makes or ships it must know.
type EventLine struct {
	ID           string       `json:"id"`
	State        State        `json:"state"`
	Name         string       `json:"name"`
	Model        string       `json:"model,omitempty"`
	Revision     int          `json:"revision,omitempty"`
	Material     string       `json:"material"`
	Requirements Requirements `json:"requirements"`
	ReprintOf    string       `json:"reprint_of,omitempty"`
	Progress
}

// LineHappened is the data of the events line.*.
type LineHappened struct {
	Order      string    `json:"order"`
	Number     int64     `json:"number"`
	OrderState State     `json:"order_state"`
	Due        string    `json:"due,omitempty"`
	Quantity   int       `json:"quantity,omitempty"`
	Note       string    `json:"note,omitempty"`
	Line       EventLine `json:"line"`
}

// Remark is the data of order.commented and order.noted. It leaves the text
// out: whoever may read it reads it here.
type Remark struct {
	Order   string     `json:"order"`
	Number  int64      `json:"number"`
	Comment string     `json:"comment"`
	Role    frame.Role `json:"role"`
}

// Attached is the data of order.attached.
type Attached struct {
	Order      string     `json:"order"`
	Number     int64      `json:"number"`
	Attachment Attachment `json:"attachment"`
}

func (l *Line) event() EventLine {
	return EventLine{
		ID: l.ID, State: l.State(), Name: l.Name, Model: l.Model, Revision: l.Revision, Material: l.Material, Requirements: l.Requirements,
		ReprintOf: l.ReprintOf, Progress: l.Progress,
	}
}

func (o *Order) event() OrderEvent {
	e := OrderEvent{Order: o.ID, Number: o.Number, State: o.State, Reference: o.Reference, Due: o.Due, Lines: []EventLine{}}
	for i := range o.Lines {
		e.Lines = append(e.Lines, o.Lines[i].event())
	}
	return e
}

// emit tells of a step. If what a line did has moved the whole order on, that is
// an event, too: who waits for it need not count lines.
func (o *Order) emit(tx *frame.Tx, step Step, before State) error {
	if step.Line == "" {
		return tx.Emit(step.name(), o.ID, o.Party, o.event())
	}
	l, err := o.line(step.Line)
	if err != nil {
		return err
	}
	e := LineHappened{Order: o.ID, Number: o.Number, OrderState: o.State, Due: o.Due, Quantity: step.Quantity, Note: step.Note, Line: l.event()}
	if err := tx.Emit(step.name(), o.ID, o.Party, e); err != nil || o.State == before {
		return err
	}
	return tx.Emit("order."+string(o.State), o.ID, o.Party, o.event())
}
